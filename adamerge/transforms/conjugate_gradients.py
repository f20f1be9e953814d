"""Conjugate gradients for linear least squares, matrix-free."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

LinearMap: TypeAlias = Callable[[Tensor], Tensor]


def least_squares(
    forward: LinearMap, adjoint: LinearMap, target: Tensor, damping: float, tolerance: float, steps: int
) -> Tensor:
    """Minimise ‖A x - b‖² + damping · ‖x‖² by conjugate gradients on the normal equations, from 0.

    Args:
        forward: x → A x.
        adjoint: y → Aᵀ y.
        target: b.
        damping: at least 0; 0 gives the least-squares solution of least norm.
        tolerance: stop where ‖A x - b‖² ≤ tolerance · ‖b‖², or where the gradient's square has shrunk by tolerance^1.5.
        steps: greatest number of steps.

    Returns:
        x, the shape of Aᵀ b.

    Reference:
        Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952 (CGLS).

    Example:
        >>> import torch
        >>> A = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> b = torch.tensor([4.0, 3.0])
        >>> least_squares(lambda x: A @ x, lambda y: A.T @ y, b, 0.0, 1e-12, 10).round(decimals=4)
        tensor([2., 3.])
    """
    rest = target.clone()
    gradient = adjoint(rest)
    solution, direction = torch.zeros_like(gradient), gradient
    energy = first = gradient.square().sum()
    for _ in range(steps):
        image = forward(direction)
        length = energy / (image.square().sum() + damping * direction.square().sum())
        if not length.isfinite():
            break
        solution = solution + length * direction
        rest = rest - length * image
        gradient = adjoint(rest) - damping * solution
        energy, previous = gradient.square().sum(), energy
        if rest.square().sum() <= tolerance * target.square().sum() or energy <= tolerance**1.5 * first:
            break
        direction = gradient + energy / previous * direction
    return solution
