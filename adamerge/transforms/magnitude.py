"""Magnitude trimming: each expert keeps its largest changes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.order_statistics import Scope, order_statistics
from adamerge.transforms.transform import (
    TASK_ARITHMETIC,
    Stacks,
    TensorTransform,
    Transform,
    per_expert,
    require,
    vectors,
)
from adamerge.types import check_types


def kept(density: float, length: int) -> int:
    """Count the numbers of a vector that a density keeps: max(1, ⌊density · length⌋).

    Args:
        density: share to keep, in (0, 1].
        length: length of the vector.

    Returns:
        At least 1.

    Example:
        >>> kept(0.2, 10), kept(0.2, 3)
        (2, 1)
    """
    return max(1, int(density * length))


def tensor_thresholds(stack: Tensor, density: float) -> Tensor:
    """Find the k-th largest magnitude of each expert's tensor, k = max(1, ⌊density · N⌋).

    Args:
        stack: (K, *shape).
        density: share to keep, in (0, 1].

    Returns:
        (K,) thresholds.

    Example:
        >>> tensor_thresholds(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), 0.5)
        tensor([3.])
    """
    magnitudes = vectors(stack).abs()  # (K, N)
    length = magnitudes.shape[1]
    return magnitudes.kthvalue(length - kept(density, length) + 1, dim=1).values


def global_thresholds(stacks: Stacks, density: float) -> Tensor:
    """Find the k-th largest magnitude of each expert's whole vector of length d, k = max(1, ⌊density · d⌋).

    Exact, and the vector is never held (`order_statistics`, two passes). The AdaMerging code takes one more number:
    its k is ⌊density · d⌋ + 1.

    Args:
        stacks: a fresh pass over all tensors at each call.
        density: share to keep, in (0, 1].

    Returns:
        (K,) thresholds.

    Raises:
        ConfigError: There is no tensor.

    Example:
        >>> tensors = {"a": torch.tensor([[1.0, -4.0]]), "b": torch.tensor([[2.0, 3.0]])}
        >>> global_thresholds(lambda: iter(tensors.items()), 0.5)
        tensor([3.])
    """

    def magnitudes() -> Iterator[Tensor]:
        return (vectors(stack).abs() for _, stack in stacks())

    return order_statistics(magnitudes, lambda length: (length - kept(density, length),))[0]


def trim(stack: Tensor, thresholds: Tensor) -> Tensor:
    """Set to zero what lies below an expert's threshold: τ where |τ| ≥ threshold, else 0. Ties are kept.

    Args:
        stack: (K, *shape).
        thresholds: (K,).

    Returns:
        (K, *shape).

    Reference:
        Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023,
        section 3.2, step 1.

    Example:
        >>> trim(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), torch.tensor([3.0]))
        tensor([[ 0., -4.,  0.,  3.]])
    """
    return torch.where(stack.abs() >= per_expert(thresholds, stack), stack, 0)


@dataclass(frozen=True)
class Magnitude(Transform):
    """Each expert keeps the `density` share of its changes that is largest in magnitude; nothing is rescaled.

    The trimmed vectors are summed as in task arithmetic, hence its coefficient 0.3.

    Attributes:
        density: share to keep, in (0, 1].
        scope: apply the density to an expert's whole vector, or to each tensor.

    Raises:
        ConfigError: on a density outside (0, 1] or an unknown scope.
    """

    density: float = 0.2
    scope: Scope = "global"

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(0 < self.density <= 1, "density", "a share in (0, 1]", self.density)

    @property
    def coefficient(self) -> float:
        """0.3, the coefficient of task arithmetic."""
        return TASK_ARITHMETIC

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Find the thresholds of the whole vectors if the scope is global; see `Transform.plan`."""
        if self.scope == "tensor":
            return lambda name, stack: trim(stack, tensor_thresholds(stack, self.density))
        thresholds = global_thresholds(stacks, self.density)
        return lambda name, stack: trim(stack, thresholds)

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
