"""DOGE's formulas: norm-balanced coefficients, the shared subspace, and the modification fitted outside it."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from adamerge.transforms.conjugate_gradients import least_squares
from adamerge.transforms.thin_svd import thin_svd
from adamerge.transforms.transform import is_present, vectors

Residual: TypeAlias = Literal["row", "matrix"]
"""One residual for each expert and row, (K, R), or one for each expert, (K,)."""

CONTRACTION: dict[Residual, str] = {"row": "kr", "matrix": "k"}


def norm_coefficients(stack: Tensor, eta: float) -> Tensor:
    """Give every expert an update of equal norm: λₖ = η/‖τₖ‖_F, and 0 for a task vector that is zero up to rounding.

    Args:
        stack: (K, *shape).
        eta: norm η of each update, > 0.

    Returns:
        (K,).

    Reference:
        Wei, Tang, Shen, Hu, Yuan, Cao, "Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent",
        ICML 2025 (task-aware coefficients), for each tensor as in its code.

    Example:
        >>> norm_coefficients(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 0.5)
        tensor([0.1000, 0.0000])
    """
    norms = vectors(stack).double().norm(dim=1)
    return torch.where(is_present(stack), eta / norms, 0).to(stack.dtype)


def shared_subspace(stack: Tensor, rank: int | None = None) -> Tensor:
    """Find the directions of the output space that the experts share.

    The first max(1, ⌊r/K⌋) left singular vectors of each τₖ, r = min(R, M), are concatenated; the first q left singular
    vectors of these are the shared ones.

    Args:
        stack: (K, R, M).
        rank: q ≥ 1; None takes max(1, ⌊r/K⌋).

    Returns:
        Q (R, at most q), orthonormal columns.

    Reference:
        Wei et al., ICML 2025 (shared subspace), as in its code.

    Example:
        >>> shared_subspace(torch.tensor([[[1.0, 0.0], [0.0, 0.1]], [[0.0, 2.0], [0.0, 0.0]]]), 1).abs()
        tensor([[1.],
                [0.]])
    """
    own = max(1, min(stack.shape[1:]) // len(stack))
    own_bases = [thin_svd(expert)[0][:, :own] for expert in stack[is_present(stack)]]
    if not own_bases:
        return stack.new_zeros(stack.shape[1], 0)
    left, _, _ = thin_svd(torch.cat(own_bases, 1))
    return left[:, : own if rank is None else rank].to(stack.dtype)


def complement(matrix: Tensor, basis: Tensor) -> Tensor:
    """Project on the complement of the shared subspace: X - Q (Qᵀ X); the R by R projector is never formed.

    Args:
        matrix: (R, M).
        basis: Q (R, q), orthonormal columns.

    Returns:
        (R, M).

    Example:
        >>> complement(torch.ones(2, 1), torch.tensor([[1.0], [0.0]])).tolist()
        [[0.0], [1.0]]
    """
    return matrix - basis @ (basis.mT @ matrix)


def residuals(stack: Tensor, coefficients: Tensor, delta: Tensor, residual: Residual = "row") -> Tensor:
    """Measure the gap of the merged update to each expert, along the expert: ⟨τₖ, τₖ - U⟩, U = Σⱼ λⱼ (τⱼ + Δ).

    Args:
        stack: (K, R, M).
        coefficients: λ (K,).
        delta: Δ (R, M).
        residual: inner products of rows, or of whole matrices.

    Returns:
        (K, R), or (K,); DOGE minimises the sum of their squares.

    Reference:
        Wei et al., ICML 2025 (data-free objective): the unknown gradient of a task's loss is replaced by its task
        vector. Its code takes rows.

    Example:
        >>> stack = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> residuals(stack, torch.tensor([0.5, 0.5]), torch.zeros(1, 2)).tolist()
        [[0.5], [2.0]]
    """
    merged = torch.einsum("k,krm->rm", coefficients, stack) + coefficients.sum() * delta
    form = CONTRACTION[residual]
    return torch.einsum(f"krm,krm->{form}", stack, stack) - torch.einsum(f"krm,rm->{form}", stack, merged)


def fit(
    stack: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    residual: Residual = "row",
    damping: float = 3e-5,
    tolerance: float = 1e-8,
    steps: int = 500,
) -> Tensor:
    """Fit the shared modification exactly: min over Δ of Σ residuals² subject to Qᵀ Δ = 0.

    Linear least squares in z = (Σλ)·Δ: conjugate gradients on the projected normal equations from 0, so the solution
    of least norm. Where (R - q)·M > K·R the row residuals can all be made zero. A slight damping keeps Δ from growing
    without bound along directions that the experts hardly use (an embedding row that none was trained on).

    Args:
        stack: (K, R, M).
        coefficients: λ (K,).
        basis: Q (R, q).
        residual: see `residuals`.
        damping: factor of ‖z‖², as a share of the mean squared norm of a row (or matrix) of τ.
        tolerance: share of the initial loss at which to stop.
        steps: greatest number of conjugate-gradient steps.

    Returns:
        Δ (R, M); 0 if the shared subspace is the whole space, or no expert differs from the base.

    Reference:
        Wei et al., ICML 2025 (constrained objective); solved exactly, since Adam leaves the complement.

    Example:
        >>> stack = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> delta = fit(stack, torch.tensor([0.5]), torch.tensor([[1.0], [0.0]]), damping=0.0)
        >>> residuals(stack, torch.tensor([0.5]), delta).tolist()
        [[0.5, 0.0]]
    """
    total, scale = coefficients.sum(), stack.abs().max()
    zero = torch.zeros_like(stack[0])
    if basis.shape[1] == stack.shape[1] or total == 0:
        return zero
    form = CONTRACTION[residual]

    def forward(delta: Tensor) -> Tensor:
        return torch.einsum(f"krm,rm->{form}", stack, delta) / scale

    def adjoint(weights: Tensor) -> Tensor:
        return complement(torch.einsum(f"krm,{form}->rm", stack, weights) / scale, basis)

    target = residuals(stack, coefficients, zero, residual) / scale
    energy = (stack / scale).square().sum() / target.numel()
    shift = least_squares(forward, adjoint, target, damping * energy.item(), tolerance, steps)
    return complement(shift, basis) / total


def fit_adam(
    stack: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    residual: Residual = "row",
    lr: float = 1e-4,
    steps: int = 400,
) -> Tensor:
    """Fit the shared modification as published: Adam on projected gradients.

    Adam rescales the projected gradient entry by entry, so Δ does not stay in the complement.

    Args:
        stack: (K, R, M).
        coefficients: λ (K,).
        basis: Q (R, q).
        residual: see `residuals`.
        lr: learning rate.
        steps: number of steps.

    Returns:
        Δ (R, M).

    Reference:
        Wei et al., ICML 2025 (adaptive projective gradient descent), with the constants of its code.

    Example:
        >>> stack = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> fit_adam(stack, torch.tensor([0.5]), torch.tensor([[1.0], [0.0]])).round(decimals=2)
        tensor([[0.0000, 0.0000, 0.0000],
                [0.0000, 0.0400, 0.0000]])
    """
    delta = nn.Parameter(torch.zeros_like(stack[0]), requires_grad=False)
    optimizer = torch.optim.Adam([delta], lr=lr)
    slope = -2 * coefficients.sum()
    for _ in range(steps):
        gaps = residuals(stack, coefficients, delta, residual)
        gradient = slope * torch.einsum(f"krm,{CONTRACTION[residual]}->rm", stack, gaps)
        delta.grad = complement(gradient, basis)
        optimizer.step()
    return delta.data
