"""DC-Merge: each task's directions with equal energy, merged in a space that covers all of them."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.transforms.magnitude import tensor_thresholds
from adamerge.transforms.matrix_merge import MatrixMerge
from adamerge.transforms.thin_svd import leading_parts, polar
from adamerge.transforms.ties import share_by_count, ties
from adamerge.transforms.transform import require
from adamerge.types import check_types

Energies: TypeAlias = Literal["mean", "own"]
"""Singular values of a task: all its leading ones replaced by their mean, or its own."""


def dc_merge(
    stack: Tensor, energies: Energies = "mean", density: float | None = None, full: int | None = None
) -> Tensor:
    """Merge tasks' truncated updates in the space that their singular vectors span together.

    τₖ ≈ Uₖ diag(s̃ₖ) Vₖᵀ with max(1, ⌊r/K⌋) components, r = min(R, M), and s̃ₖ their mean. U⊥ and V⊥ are the orthogonal
    matrices nearest to [U₁ … U_K] and [V₁ … V_K]. The cores U⊥ᵀ Uₖ diag(s̃ₖ) Vₖᵀ V⊥ are summed, or merged by TIES; the K
    diagonal blocks of the result, the k-th of task k's own components, are mapped back.

    Args:
        stack: (K, R, M).
        energies: mean, or own: s̃ₖ = sₖ.
        density: share of each core that TIES keeps; None sums the cores.
        full: r; by default min(R, M).

    Returns:
        (R, M).

    Reference:
        "DC-Merge: Improving Model Merging with Directional Consistency", CVPR 2026 (arXiv 2603.06242).

    Example:
        >>> stack = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 3.0]]])
        >>> dc_merge(stack).round(decimals=4)
        tensor([[2., 0.],
                [0., 3.]])
    """
    lefts, sigmas, rights = leading_parts(stack, full)
    if energies == "mean":
        sigmas = [sigma.mean().expand_as(sigma) for sigma in sigmas]
    left, right = polar(torch.cat(lefts, 1)), polar(torch.cat(rights, 1))  # (R, w), (M, w)
    cores = torch.stack([(left.T @ u) * s @ (v.T @ right) for u, s, v in zip(lefts, sigmas, rights, strict=True)])
    merged = cores.sum(0) if density is None else elected(cores, density)
    owner = torch.cat([torch.full_like(sigma, k) for k, sigma in enumerate(sigmas)])  # (w,)
    return (left @ (merged * (owner[:, None] == owner)) @ right.T).to(stack.dtype)


def elected(cores: Tensor, density: float) -> Tensor:
    """Merge cores by TIES: trim each to its largest entries, elect signs, average what agrees.

    Args:
        cores: (K, w, w).
        density: share of the entries that each keeps, in (0, 1].

    Returns:
        (w, w).

    Example:
        >>> elected(torch.tensor([[[4.0, 1.0]], [[2.0, -3.0]]]), 1.0)
        tensor([[ 3., -3.]])
    """
    if not cores.numel():
        return cores.sum(0)
    return share_by_count(ties(cores, tensor_thresholds(cores, density), cores.new_zeros(()))).sum(0)


@dataclass(frozen=True)
class DcMerge(MatrixMerge):
    """DC-Merge: one update of all experts; vectors are averaged. The coefficient is 1; the paper chooses it by labels.

    Attributes:
        energies: singular values of a task's components: mean (all the same), or own (as they are).
        density: share of each task's core that TIES keeps before it elects signs, in (0, 1]; null sums the cores. The
            authors' code keeps 0.001.

    Raises:
        ConfigError: on unknown energies, or a density out of range.
    """

    energies: Energies = "mean"
    density: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(self.density is None or 0 < self.density <= 1, "density", "a share in (0, 1], or null", self.density)

    def update(self, stack: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return DC-Merge's update, with as many components as the whole matrices get."""
        return dc_merge(stack, self.energies, self.density, min(shape))
