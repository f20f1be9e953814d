"""SWUDI and ASWUDI: WUDI in closed form, without the small eigenvalues that its early stopping leaves out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.transforms.matrix_merge import MatrixMerge
from adamerge.transforms.thin_svd import eigenpairs
from adamerge.transforms.transform import require
from adamerge.transforms.wudi import normal_equations
from adamerge.types import check_types

Start: TypeAlias = Literal["sum", "mean", "zero"]
"""Update that the filtered directions move away from; the others keep it."""

Shares: TypeAlias = Callable[[Tensor], Tensor]
"""Nonzero eigenvalues (r,), descending → share f of each that is taken, from 0 to 1."""


def start_of(stack: Tensor, start: Start) -> Tensor:
    """Return Σₖ τₖ, its mean over the experts, or 0: (R, M), float64.

    Example:
        >>> start_of(torch.tensor([[[1.0]], [[3.0]]]), "mean")
        tensor([[2.]], dtype=torch.float64)
    """
    weight = {"sum": 1.0, "mean": 1 / len(stack), "zero": 0.0}[start]
    return weight * stack.double().sum(0)


def filtered_wudi(stack: Tensor, shares: Shares, start: Start = "sum") -> Tensor:
    """Move from a start U⁰ to the minimum of WUDI's F along the eigenvectors of ΣG, each by its own share.

    U = U⁰ + (ΣτG - U⁰ ΣG) V diag(f(λ)/λ) Vᵀ with ΣG = V diag(λ) Vᵀ. Gradient flow of F/2 from U⁰ has f = 1 - exp(-λt)
    at time t; f = 1 is the exact minimum. Directions of eigenvalues that are zero up to rounding keep U⁰, which is zero
    there.

    Args:
        stack: (K, R, M).
        shares: f.
        start: U⁰.

    Returns:
        (R, M); zero for zero task vectors.

    Reference:
        arXiv 2606.07289 (SWUDI, ASWUDI) and its code.

    Example:
        >>> stack = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> filtered_wudi(stack, torch.ones_like, "zero")
        tensor([[1., 2.]])
    """
    gram, target = normal_equations(stack)
    values, vectors = eigenpairs(gram)
    origin = start_of(stack, start)
    step = ((target - origin @ gram) @ vectors * (shares(values) / values)) @ vectors.T
    return (origin + step).to(stack.dtype)


def gradient_flow(values: Tensor, time: float, most: int) -> Tensor:
    """Compute f = 1 - exp(-λt) for the largest eigenvalues, and 0 for the others; 1 at t = ∞.

    Args:
        values: λ, (r,), descending.
        time: t, > 0.
        most: how many are taken.

    Example:
        >>> gradient_flow(torch.tensor([math.log(2.0), 0.1]), 1.0, 1)
        tensor([0.5000, 0.0000])
    """
    shares = -torch.expm1(-values * time)
    shares[most:] = 0
    return shares


def participation(values: Tensor) -> int:
    """Count the eigenvalues by the participation ratio of their roots: ⌈(Σ√λ)² / Σλ⌉, at most r.

    Example:
        >>> participation(torch.tensor([4.0, 4.0])), participation(torch.tensor([4.0, 1e-6]))
        (2, 2)
    """
    if not len(values):
        return 0
    ratio = values.sqrt().sum().square() / values.sum()
    return min(len(values), math.ceil(ratio.item() - 1e-9))


def gavish_donoho(values: Tensor, beta: float, directions: int) -> int:
    """Count the singular values √λ above the optimal hard threshold for noise of unknown size, at least 1.

    √λ > ω(β) · median √λ, the median over all directions that may be nonzero, ω(β) ≈ 0.56 β³ - 0.95 β² + 1.82 β + 1.43.
    The code of ASWUDI has another approximation, which falls to 1.2 for square matrices, where ω(1) = 2.86.

    Args:
        values: nonzero λ, (r,), descending.
        beta: β, the shorter side of a task vector's matrix as a share of the longer one.
        directions: their number, at least r.

    Reference:
        Gavish, Donoho, "The Optimal Hard Threshold for Singular Values is 4/√3", 2014, equation 5.

    Example:
        >>> gavish_donoho(torch.tensor([100.0, 1.0, 1.0, 1.0]), 1.0, 4)
        1
    """
    omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    roots = torch.cat([values.sqrt(), values.new_zeros(directions - len(values))])
    return max(1, int((roots > omega * roots.median()).sum()))


@dataclass(frozen=True)
class Swudi(MatrixMerge):
    """SWUDI: WUDI's gradient flow stopped at a time, in the leading eigenvectors alone; vectors are averaged.

    From the sum of all task vectors (`start: sum`, as published) the directions that are left out keep an update K
    times the size of one expert's. Where experts changed much, take `start: mean`, or a smaller coefficient.

    Attributes:
        time: t of the flow; as published for Llama 300, for CLIP 1300 to 1800.
        keep: share of all M directions that is moved at most, in (0, 1]; as published 0.65, for Llama 0.85.
        start: sum, mean or zero.

    Raises:
        ConfigError: on an unknown start, or numbers out of range.
    """

    time: float = 300.0
    keep: float = 0.65
    start: Start = "sum"

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(self.time > 0, "time", "a number above 0", self.time)
        require(0 < self.keep <= 1, "keep", "a share in (0, 1]", self.keep)

    def update(self, stack: Tensor, shape: tuple[int, int]) -> Tensor:
        """Move along the ⌈keep · M⌉ leading eigenvectors, M that of the whole matrix."""
        most = math.ceil(self.keep * shape[1])
        return filtered_wudi(stack, lambda values: gradient_flow(values, self.time, most), self.start)


@dataclass(frozen=True)
class Aswudi(MatrixMerge):
    """ASWUDI: WUDI's minimum in as many leading eigenvectors as their spectrum says; vectors are averaged.

    On `start`, see `Swudi`.

    Attributes:
        rank: how many: participation (the participation ratio of √λ), or gavish_donoho (√λ above the optimal hard
            threshold), which is published for complete checkpoints of language models.
        start: sum, mean or zero.

    Raises:
        ConfigError: on an unknown rank or start.
    """

    rank: Literal["participation", "gavish_donoho"] = "participation"
    start: Start = "sum"

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)

    def update(self, stack: Tensor, shape: tuple[int, int]) -> Tensor:
        """Take the minimum in the leading eigenvectors, as many as the spectrum of the whole matrix says."""
        beta, most = min(shape) / max(shape), min(shape[1], len(stack) * shape[0])
        gavish = partial(gavish_donoho, beta=beta, directions=most)
        count = participation if self.rank == "participation" else gavish
        return filtered_wudi(stack, lambda values: gradient_flow(values, math.inf, count(values)), self.start)
