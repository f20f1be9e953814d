"""TIES: trim, elect a sign, keep what agrees with it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.magnitude import global_thresholds, tensor_thresholds, trim
from adamerge.transforms.order_statistics import Scope
from adamerge.transforms.transform import TASK_ARITHMETIC, Stacks, TensorTransform, Transform, require
from adamerge.types import check_types


def elect_signs(trimmed: Tensor) -> Tensor:
    """Elect the sign of each entry by total mass: s = sign(Σₖ τₖ).

    Args:
        trimmed: (K, *shape).

    Returns:
        (*shape) of -1, 0, 1; 0 where no expert has an entry or they cancel exactly.

    Reference:
        Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023, section 3.2, step 2.

    Example:
        >>> elect_signs(torch.tensor([[1.0, -2.0, 0.5], [-3.0, 1.0, -0.5]]))
        tensor([-1., -1.,  0.])
    """
    return trimmed.sum(0).sign()


def keep_agreeing(trimmed: Tensor, signs: Tensor, total: Tensor) -> Tensor:
    """Keep the entries with the elected sign; an elected sign of 0 is replaced by the sign of the total.

    τ'ₖ = τₖ where sign(τₖ) = s, else 0. No mean and no rescaling.

    Args:
        trimmed: (K, *shape).
        signs: (*shape), the elected signs.
        total: the sign of Σ signs over all entries in scope, a scalar.

    Returns:
        (K, *shape).

    Reference:
        the published code of Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning", ICLR 2024
        (AdaMerging++).

    Example:
        >>> trimmed = torch.tensor([[1.0, -2.0, 0.5], [-3.0, 1.0, -0.5]])
        >>> keep_agreeing(trimmed, elect_signs(trimmed), torch.tensor(-1.0))
        tensor([[ 0.0000, -2.0000,  0.0000],
                [-3.0000,  0.0000, -0.5000]])
    """
    elected = torch.where(signs == 0, total, signs)
    return torch.where(trimmed.sign() == elected, trimmed, 0)


def share_by_count(agreeing: Tensor) -> Tensor:
    """Divide each entry by the number of experts that have it, so that a plain sum is TIES' disjoint mean.

    Args:
        agreeing: (K, *shape), the output of `keep_agreeing`.

    Returns:
        (K, *shape) whose sum over K is the mean of the nonzero entries.

    Reference:
        Yadav et al., NeurIPS 2023, section 3.2, step 3.

    Example:
        >>> share_by_count(torch.tensor([[2.0, 0.0], [4.0, 3.0]])).sum(0)
        tensor([3., 3.])
    """
    return agreeing / (agreeing != 0).sum(0).clamp(min=1)


def total_sign(stacks: Stacks, thresholds: Tensor) -> Tensor:
    """Take the sign of the majority: sign(Σ over all entries of sign(Σₖ trimmed τₖ)).

    Args:
        stacks: a fresh pass over all tensors.
        thresholds: (K,), for the whole vectors.

    Returns:
        A scalar: -1, 0 or 1.

    Example:
        >>> tensors = {"a": torch.tensor([[1.0, -4.0]]), "b": torch.tensor([[2.0, 3.0]])}
        >>> total_sign(lambda: iter(tensors.items()), torch.tensor([1.0])).item()
        1.0
    """
    balance = sum(elect_signs(trim(stack, thresholds)).double().sum() for _, stack in stacks())
    return torch.as_tensor(balance).sign().float()


def ties(stack: Tensor, thresholds: Tensor, total: Tensor | None = None) -> Tensor:
    """Trim, elect signs and keep the entries that agree, in one tensor of all experts.

    Args:
        stack: (K, *shape).
        thresholds: (K,).
        total: the sign that replaces an elected 0; None takes the majority of this tensor's own signs.

    Returns:
        (K, *shape).

    Example:
        >>> ties(torch.tensor([[1.0, -2.0, 0.1], [-3.0, 1.0, 0.2]]), torch.tensor([1.0, 1.0]))
        tensor([[ 0., -2.,  0.],
                [-3.,  0.,  0.]])
    """
    trimmed = trim(stack, thresholds)
    signs = elect_signs(trimmed)
    total = signs.sum().sign() if total is None else total.to(stack.device)
    return keep_agreeing(trimmed, signs, total)


@dataclass(frozen=True)
class Ties(Transform):
    """TIES trimming and sign election: the task vectors of AdaMerging++.

    `reduce="sum"` leaves the entries as they are, as AdaMerging++ does, with coefficients that start at 0.3.
    `reduce="mean"` is TIES' own merge: entries are divided by the number of experts that agree, and their plain sum has
    the coefficient 1.

    Attributes:
        density: share to keep, in (0, 1].
        scope: apply the density to an expert's whole vector, as in both papers, or to each tensor, as in mergekit and
            PEFT.
        reduce: sum or mean over the experts that agree.

    Raises:
        ConfigError: on a density outside (0, 1] or an unknown scope or reduction.
    """

    density: float = 0.2
    scope: Scope = "global"
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(0 < self.density <= 1, "density", "a share in (0, 1]", self.density)

    @property
    def coefficient(self) -> float:
        """0.3 for the sum (AdaMerging++), 1 for the mean (TIES)."""
        return TASK_ARITHMETIC if self.reduce == "sum" else 1.0

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Find the thresholds and the total sign of the whole vectors if the scope is global; see `Transform.plan`."""
        reduce = share_by_count if self.reduce == "mean" else Tensor.clone
        if self.scope == "tensor":
            return lambda name, stack: reduce(ties(stack, tensor_thresholds(stack, self.density)))
        thresholds = global_thresholds(stacks, self.density)
        total = total_sign(stacks, thresholds)
        return lambda name, stack: reduce(ties(stack, thresholds, total))

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
