"""The base class: a plan over all tensors, then one tensor of all experts at a time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.types import ConfigError

TensorTransform: TypeAlias = Callable[[str, Tensor], Tensor]
"""(parameter name, stack (K, *shape) fp32) → (K', *shape)."""

CoreTransform: TypeAlias = Callable[[Tensor, tuple[int, int]], Tensor]
"""(cores of all experts (K, p, q) fp64, shape (R, M) of the whole matrix) → (K', p, q)."""

Stacks: TypeAlias = Callable[[], Iterator[tuple[str, Tensor]]]
"""A fresh pass over all tensors, one stack (K, *shape) at a time, in the order of the module's parameters."""

MERGED = ("merged",)
"""Output names of a method that merges all experts into one update."""

Labels: TypeAlias = Literal["sampled", "expected", "likeliest"]
"""Labels from an expert's own predictions: one drawn, all weighed by their probability, or the likeliest."""

TASK_ARITHMETIC = 0.3
"""Scale of the plain sum of task vectors: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, whose best
scales on eight tasks lie near it, and where AdaMerging starts."""


ROUNDING = 1e-6
"""Norm of a task vector, as a share of the largest of the same tensor, that counts as zero where a method divides by
norms: it would make an update of full size from the rounding of a converted checkpoint."""


class FisherSettings(NamedTuple):
    """How diagonal Fisher information is computed.

    Attributes:
        labels: which labels it is computed for.
        rows: calibration rows per expert; None takes all.
        seed: seed of the drawn labels.
    """

    labels: Labels
    rows: int | None
    seed: int


class Transform(ABC):
    """Map task vectors to task vectors, one tensor of all experts at a time: K·N numbers, never more.

    The outputs are task vectors like any other. In the published methods they are multiplied by `coefficient` and
    added to the base; learned methods replace it by their own coefficients.
    """

    @property
    @abstractmethod
    def coefficient(self) -> float:
        """The published scale of each output in the plain sum base + coefficient · Σ outputs."""

    @property
    def title(self) -> str:
        """Name of the method in messages."""
        return type(self).__name__

    @property
    def by_matrix(self) -> bool:
        """Whether it is applied to each matrix by itself where a parameter holds several (a mixture's experts)."""
        return False

    @property
    def fisher(self) -> FisherSettings | None:
        """How the experts' diagonal Fisher information is to be computed; None if the method needs none."""
        return None

    @property
    def core(self) -> "CoreTransform | None":
        """The transform in the space of low-rank factors, if it is exact there and cheaper; None if it is not.

        It must commute with orthonormal bases: T(Q C Pᵀ) = Q T(C) Pᵀ for all Q, P with orthonormal columns.
        """
        return None

    def core_of(self, name: str) -> "CoreTransform | None":
        """Return `core` where it holds for this parameter."""
        return self.core

    @property
    def keeps_span(self) -> bool:
        """Whether the columns of outputs are in the span of the columns of all task vectors of the same tensor."""
        return self.core is not None

    def check(self, experts: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse, before anything is written, what cannot be transformed; by default refuse nothing.

        Args:
            experts: K.
            shapes: shapes of all parameters by name.

        Raises:
            ConfigError: There are too few experts, or the method is not defined for these parameters.
        """
        del experts, shapes

    @abstractmethod
    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Gather what the method needs from the whole model, in bounded memory.

        Args:
            stacks: a fresh pass over all tensors at each call; called once per global pass of the method.
            information: every expert's diagonal Fisher information, stored like task vectors; None unless `fisher`
                asks for it.

        Returns:
            The transform of one tensor of all experts; tensors may come in any order.
        """

    @abstractmethod
    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the K' outputs: the experts' names, or `MERGED` for one update of all.

        Args:
            names: the experts' names, in the order of the stacks.

        Returns:
            K' names.
        """


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Refuse an option that does not meet a condition, or is a number that is not finite.

    Args:
        condition: what must hold.
        key: name of the option.
        expected: the values it may take, in words.
        found: its value.

    Raises:
        ConfigError: The condition does not hold.

    Example:
        >>> require(False, "density", "a share in (0, 1]", 1.5)
        Traceback (most recent call last):
        adamerge.types.ConfigError: density: expected a share in (0, 1], found 1.5.
    """
    if not condition or (isinstance(found, float) and not math.isfinite(found)):
        raise ConfigError(f"{key}: expected {expected}, found {found!r}.")


def is_matrix(stack: Tensor) -> bool:
    """Return whether the tensors of a stack have two dimensions or more and are treated as matrices.

    Args:
        stack: (K, *shape).

    Returns:
        False for scalars and vectors (biases, norms).
    """
    return stack.ndim > 2


def vectors(stack: Tensor) -> Tensor:
    """View tensors of any shape, scalars included, as vectors.

    Args:
        stack: (K, *shape).

    Returns:
        (K, N).

    Example:
        >>> import torch
        >>> vectors(torch.zeros(3)).shape, vectors(torch.zeros(3, 4, 5)).shape
        (torch.Size([3, 1]), torch.Size([3, 20]))
    """
    return stack.reshape(len(stack), -1)


def is_present(stack: Tensor) -> Tensor:
    """Mark the experts whose task vector is more than rounding; see `ROUNDING`.

    Args:
        stack: (K, *shape).

    Returns:
        (K,), bool.

    Example:
        >>> import torch
        >>> is_present(torch.tensor([[1.0], [1e-9], [0.0]]))
        tensor([ True, False, False])
    """
    norms = torch.stack([vector.double().norm() for vector in vectors(stack)])
    return norms > ROUNDING * norms.max()


def matrices(stack: Tensor) -> Tensor:
    """View tensors of two dimensions or more as matrices: rows are the first, columns all the others.

    Args:
        stack: (K, R, ...).

    Returns:
        (K, R, M).

    Example:
        >>> import torch
        >>> matrices(torch.zeros(3, 4, 2, 5)).shape
        torch.Size([3, 4, 10])
    """
    return stack.flatten(2)


def per_expert(values: Tensor, stack: Tensor) -> Tensor:
    """Reshape one value per expert so that it broadcasts over a stack.

    Args:
        values: (K,), one per expert.
        stack: (K, *shape).

    Returns:
        (K, 1, ..., 1).
    """
    return values.to(stack.device).reshape(-1, *[1] * (stack.ndim - 1))
