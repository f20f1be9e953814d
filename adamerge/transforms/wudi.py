"""WUDI: the update that disturbs no task along its own task vector."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from adamerge.transforms.matrix_merge import MatrixMerge
from adamerge.transforms.transform import CoreTransform, is_present, require
from adamerge.types import check_types


def interference(update: Tensor, stack: Tensor) -> Tensor:
    """Compute F(U) = Σₖ ‖(U - τₖ) τₖᵀ‖²_F / ‖τₖ‖²_F; zero task vectors add nothing.

    Args:
        update: (R, M).
        stack: (K, R, M).

    Returns:
        A scalar.

    Reference:
        Cheng, Zhang, Song, Yang, Guo, "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging
        via Task Vectors", ICML 2025.

    Example:
        >>> interference(torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]))
        tensor(4.)
    """
    energy = stack.square().sum((1, 2))
    gaps = ((update - stack) @ stack.mT).square().sum((1, 2))
    return torch.where(energy > 0, gaps / energy, 0).sum()


def normal_equations(stack: Tensor, normalised: bool = True) -> tuple[Tensor, Tensor]:
    """Sum Gₖ = τₖᵀτₖ/‖τₖ‖² and τₖGₖ, so that ∇F(U) = 2 (U ΣG - ΣτG), without task vectors that are zero up to rounding.

    Args:
        stack: (K, R, M).
        normalised: divide by ‖τₖ‖², so that each expert weighs the same.

    Returns:
        ΣG (M, M) and ΣτG (R, M), float64; besides, M² and R·M numbers are held.

    Example:
        >>> gram, target = normal_equations(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]))
        >>> gram.tolist(), target.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0]])
    """
    _, rows, columns = stack.shape
    gram = stack.new_zeros(columns, columns, dtype=torch.float64)
    target = stack.new_zeros(rows, columns, dtype=torch.float64)
    for expert, present in zip(stack, is_present(stack), strict=True):
        if present:  # one at a time
            expert = expert.double()
            own = expert.mT @ expert
            energy = own.trace() if normalised else 1.0
            gram += own / energy
            # the smaller product first: of an embedding R² numbers would be more than the whole model
            target += ((expert @ expert.mT) @ expert if rows < columns else expert @ own) / energy
    return gram, target


def wudi(stack: Tensor, ridge: float = 0.1, width: int | None = None) -> Tensor:
    """Minimise F in closed form, with a ridge towards Σₖ τₖ, the start of the published solver.

    U = S + (ΣτG - S ΣG)(ΣG + hI)⁻¹ with S = Σₖ τₖ and h = ridge · tr(ΣG)/M, which is `ridge` times the mean
    eigenvalue; ΣG alone is singular where the task vectors lack rank, and following its small eigenvalues hurts: on
    the eight experts of the zoo (150 training rows per task) accuracy is 62.0 with a ridge of 1e-6, 96.2 with 0.1,
    92.3 with the published 300 steps of Adam, 92.4 with task arithmetic 0.3.

    Args:
        stack: (K, R, M).
        ridge: share of the mean eigenvalue, > 0.
        width: number of eigenvalues that the mean is over; by default M.

    Returns:
        (R, M).

    Reference:
        Cheng et al., ICML 2025; solved directly instead of by Adam.

    Example:
        >>> wudi(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])).round(decimals=3)
        tensor([[1., 2.]])
    """
    gram, target = normal_equations(stack)
    start = torch.zeros_like(target)
    for expert in stack:
        start += expert
    shift = ridge * gram.trace() / (width or len(gram))
    if shift == 0:
        return start.to(stack.dtype)
    ridged = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    step = torch.cholesky_solve((target - start @ gram).mT, torch.linalg.cholesky(ridged)).mT
    return (start + step).to(stack.dtype)


def wudi_adam(stack: Tensor, lr: float = 1e-5, steps: int = 300) -> Tensor:
    """Minimise F by Adam from Σₖ τₖ, as published; early stopping regularises it.

    Args:
        stack: (K, R, M).
        lr: learning rate.
        steps: number of steps.

    Returns:
        (R, M).

    Reference:
        Cheng et al., ICML 2025, with the constants of its code.

    Example:
        >>> wudi_adam(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])).round(decimals=3)
        tensor([[1., 2.]])
    """
    gram, target = (matrix.to(stack.dtype) for matrix in normal_equations(stack))
    update = nn.Parameter(stack.sum(0), requires_grad=False)
    optimizer = torch.optim.Adam([update], lr=lr)
    for _ in range(steps):
        update.grad = 2 * (update @ gram - target)
        optimizer.step()
    return update.data


@dataclass(frozen=True)
class Wudi(MatrixMerge):
    """WUDI: one update of all experts; vectors are averaged. It has no scale to choose, so the coefficient is 1.

    Attributes:
        solver: closed (normal equations with a ridge) or adam (300 steps of 1e-5, as published).
        ridge: ridge of the closed form, as a share of the mean eigenvalue.
        lr: Adam's learning rate.
        steps: Adam's number of steps.

    Raises:
        ConfigError: on an unknown solver, or numbers that are not positive.
    """

    solver: Literal["closed", "adam"] = "closed"
    ridge: float = 0.1
    lr: float = 1e-5
    steps: int = 300

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(self.ridge > 0, "ridge", "a number above 0", self.ridge)
        require(self.lr > 0, "lr", "a number above 0", self.lr)
        require(self.steps >= 1, "steps", "1 or more", self.steps)

    @property
    def core(self) -> CoreTransform | None:
        """The closed form of the cores; None for Adam, whose steps depend on the bases."""
        return None if self.solver == "adam" else super().core

    def update(self, stack: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return WUDI's update, with the ridge of the whole matrices."""
        if self.solver == "adam":
            return wudi_adam(stack, self.lr, self.steps)
        return wudi(stack, self.ridge, shape[1])
