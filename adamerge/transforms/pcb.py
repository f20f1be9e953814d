"""PCB: experts compete for each parameter."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.order_statistics import Scope, Scores, order_statistics
from adamerge.transforms.transform import Stacks, TensorTransform, Transform, per_expert, require, vectors
from adamerge.types import check_types

OUTLIERS = 1e-4
"""Share of each expert's magnitudes that is clamped at each end."""


class Range(NamedTuple):
    """Two order statistics of each expert's vector.

    Attributes:
        low: (K,).
        high: (K,).
    """

    low: Tensor
    high: Tensor


def place(values: Tensor, bounds: Range) -> Tensor:
    """Clamp values to a range and place them in it: (clamp(v, low, high) - low)/(high - low), in [0, 1].

    Args:
        values: (K, *shape).
        bounds: range of each expert; an empty range gives 0.

    Returns:
        (K, *shape).

    Example:
        >>> place(torch.tensor([[0.0, 2.0, 9.0]]), Range(torch.tensor([1.0]), torch.tensor([3.0])))
        tensor([[0.0000, 0.5000, 1.0000]])
    """
    low, high = per_expert(bounds.low, values), per_expert(bounds.high, values)
    width = torch.where(high > low, high - low, 1)
    return (values.clamp(low, high) - low) / width


def competition(stack: Tensor, magnitudes: Range) -> Tensor:
    """Score each expert's claim to an entry: β = exp(K·(x² - 1)) ⊙ tanh(τₖ ⊙ Σⱼ τⱼ), x the placed magnitude.

    The first factor is the paper's intra-balancing, a softmax of K·x² over the expert's vector up to a constant, which
    the placing of β removes; the second, inter-balancing, is as in the published code.

    Args:
        stack: (K, *shape).
        magnitudes: outlier bounds of |τₖ| over the vector in scope.

    Returns:
        (K, *shape).

    Reference:
        Du, Lee, Li, Jiang, Guo, Yu, Liu, Goh, Tang, He, Zhang, "Parameter Competition Balancing for Model Merging",
        NeurIPS 2024, and its code.

    Example:
        >>> competition(torch.tensor([[2.0, 1.0]]), Range(torch.tensor([1.0]), torch.tensor([2.0])))
        tensor([[0.9993, 0.2802]])
    """
    intra = (len(stack) * (place(stack.abs(), magnitudes).square() - 1)).exp()
    return intra * (stack * stack.sum(0)).tanh()


def pcb(stack: Tensor, magnitudes: Range, scores: Range) -> Tensor:
    """Weigh each entry by its score: βₖ ⊙ τₖ / Σⱼ βⱼ, scores placed between the threshold and the largest.

    Entries below the threshold have weight 0. The plain sum over experts is the merged update.

    Args:
        stack: (K, *shape).
        magnitudes: outlier bounds of |τₖ|, to which τₖ is clamped.
        scores: threshold and maximum of β over the vector in scope.

    Returns:
        (K, *shape).

    Reference:
        Du et al., NeurIPS 2024, and its code.

    Example:
        >>> one = torch.tensor([1.0, 1.0])
        >>> pcb(torch.tensor([[2.0], [1.0]]), Range(0 * one, 2 * one), Range(0 * one, one)).sum(0).round(decimals=2)
        tensor([1.8200])
    """
    weights = place(competition(stack, magnitudes), scores)
    low, high = per_expert(magnitudes.low, stack), per_expert(magnitudes.high, stack)
    clamped = stack.sign() * stack.abs().clamp(low, high)
    return weights * clamped / weights.sum(0).clamp(min=1e-12)


def bounds(scores: Scores, low: float, high: float) -> Range:
    """Find the order statistics at ⌊low · d⌋ and ⌊high · d⌋ - 1 of vectors of length d.

    Args:
        scores: a fresh pass at each call.
        low: share of the numbers below the range.
        high: share of the numbers up to its end.

    Returns:
        The range of each expert.

    Example:
        >>> bounds(lambda: iter([torch.arange(10.0)[None]]), 0.2, 1.0)
        Range(low=tensor([2.]), high=tensor([9.]))
    """

    def positions(length: int) -> tuple[int, int]:
        return min(int(length * low), length - 1), max(int(length * high) - 1, 0)

    return Range(*order_statistics(scores, positions))


def ranges(stacks: Stacks, ratio: float) -> tuple[Range, Range]:
    """Find the outlier bounds of the magnitudes, then the threshold and maximum of the scores.

    Args:
        stacks: a fresh pass over all tensors in scope; called four times.
        ratio: share of the entries that an expert keeps.

    Returns:
        Ranges of the magnitudes and of the scores.
    """

    def magnitudes() -> Iterator[Tensor]:
        return (vectors(stack).abs() for _, stack in stacks())

    outliers = bounds(magnitudes, OUTLIERS, 1 - OUTLIERS)

    def scores() -> Iterator[Tensor]:
        return (vectors(competition(stack, outliers)) for _, stack in stacks())

    return outliers, bounds(scores, 1 - ratio, 1.0)


@dataclass(frozen=True)
class Pcb(Transform):
    """PCB-merging, one output per expert; the coefficient 1.2 is taken from the authors' code.

    Attributes:
        ratio: share of the entries that each expert keeps, in (0, 1].
        scope: competition over the whole vectors, as published, or in each tensor.

    Raises:
        ConfigError: on a ratio outside (0, 1] or an unknown scope.
    """

    ratio: float = 0.1
    scope: Scope = "global"

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(0 < self.ratio <= 1, "ratio", "a share in (0, 1]", self.ratio)

    @property
    def coefficient(self) -> float:
        """1.2, as in the authors' code."""
        return 1.2

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Find bounds and thresholds of the whole vectors if the scope is global; see `Transform.plan`."""
        if self.scope == "tensor":
            return lambda name, stack: pcb(stack, *ranges(lambda: iter([(name, stack)]), self.ratio))
        found = ranges(stacks, self.ratio)
        return lambda name, stack: pcb(stack, *found)

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
