"""Consensus: keep the changes that several tasks use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.transform import TASK_ARITHMETIC, Stacks, TensorTransform, Transform, require
from adamerge.types import check_types


def tall_masks(stack: Tensor, threshold: float) -> Tensor:
    """Mark the entries of the merged vector that a task uses: mₖ = |τₖ| ≥ λ · |Σⱼ τⱼ - τₖ|.

    Args:
        stack: (K, *shape).
        threshold: λ > 0; larger is more selective.

    Returns:
        (K, *shape), bool.

    Reference:
        Wang, Dimitriadis, Ortiz-Jimenez, Fleuret, Frossard, "Localizing Task Information for Improved Model Merging and
        Compression", ICML 2024 (TALL masks).

    Example:
        >>> tall_masks(torch.tensor([[1.0, 1.0], [1.0, -9.0]]), 0.5)
        tensor([[ True, False],
                [ True,  True]])
    """
    total = stack.sum(0)
    return stack.abs() >= threshold * (total - stack).abs()


def consensus(stack: Tensor, threshold: float, agreement: int) -> Tensor:
    """Keep the entries that at least `agreement` tasks use: τ'ₖ = 1[Σⱼ mⱼ ≥ k] ⊙ τₖ.

    The masked vectors add up to the paper's 1[Σⱼ mⱼ ≥ k] ⊙ Σⱼ τⱼ. With k = 2 it drops the selfish entries, which one
    task uses, and the catastrophic ones, which none does.

    Args:
        stack: (K, *shape).
        threshold: λ of the masks, > 0.
        agreement: k, from 1 to K.

    Returns:
        (K, *shape).

    Reference:
        Wang et al., ICML 2024 (consensus merging).

    Example:
        >>> consensus(torch.tensor([[1.0, 1.0], [1.0, -9.0]]), threshold=0.5, agreement=2)
        tensor([[1., 0.],
                [1., 0.]])
    """
    users = tall_masks(stack, threshold).sum(0)  # (*shape)
    return torch.where(users >= agreement, stack, 0)


@dataclass(frozen=True)
class Consensus(Transform):
    """TALL masks and consensus merging.

    The paper tunes the coefficient of the plain sum on validation data; the default 0.3 is the coefficient of task
    arithmetic, to which the masks are applied.

    Attributes:
        threshold: λ of the masks; the paper searches 0.2 to 0.6.
        agreement: number of tasks that must use an entry; others are set to zero.

    Raises:
        ConfigError: on a threshold that is not positive, or an agreement below 1 or above the number of experts.
    """

    threshold: float = 0.4
    agreement: int = 2

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(self.threshold > 0, "threshold", "a number above 0", self.threshold)
        require(self.agreement >= 1, "agreement", "1 or more", self.agreement)

    @property
    def coefficient(self) -> float:
        """0.3, the coefficient of task arithmetic."""
        return TASK_ARITHMETIC

    def check(self, experts: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Require at least `agreement` experts; see `Transform.check`."""
        require(self.agreement <= experts, "agreement", f"at most the number of experts, {experts}", self.agreement)

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Return the masking of one tensor; nothing is gathered. See `Transform.plan`."""
        return lambda name, stack: consensus(stack, self.threshold, self.agreement)

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
