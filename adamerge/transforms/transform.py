"""The seam: a plan over all tensors, then one tensor of all experts at a time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.types import ConfigError

TensorTransform: TypeAlias = Callable[[str, Tensor], Tensor]
"""(parameter name, stack (K, *shape) fp32) → (K', *shape)."""

Stacks: TypeAlias = Callable[[], Iterator[tuple[str, Tensor]]]
"""A fresh pass over all tensors, one stack (K, *shape) at a time, in the order of the module's parameters."""

MERGED = ("merged",)
"""The names of the outputs of a method that yields one update of all experts."""


Labels: TypeAlias = Literal["sampled", "expected", "likeliest"]
"""Labels that an expert gives itself: one drawn as it predicts, all weighed by their probability, or the likeliest."""


TASK_ARITHMETIC = 0.3
"""Scale of the plain sum of task vectors: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, whose best
scales on eight tasks lie near it, and where AdaMerging starts."""


class FisherSettings(NamedTuple):
    """How diagonal Fisher information is taken.

    Attributes:
        labels: On which labels.
        rows: Of how many calibration rows an expert; None takes all.
        seed: Of the labels that are drawn.
    """

    labels: Labels
    rows: int | None
    seed: int


class Transform(ABC):
    """One tensor of all experts at a time, K·N numbers, never more.

    The outputs are task vectors like any other. Published, they are added to the base in a plain sum, each multiplied
    by `coefficient`; learned methods put their own coefficients there.
    """

    @property
    @abstractmethod
    def coefficient(self) -> float:
        """The published scale of each output in the plain sum base + coefficient · Σ outputs."""

    @property
    def fisher(self) -> FisherSettings | None:
        """How it needs the experts' diagonal Fisher information taken, on calibration rows; None needs none."""
        return None

    def check(self, experts: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse before anything is written what cannot be transformed; by default nothing is.

        Args:
            experts: K.
            shapes: of all parameters.

        Raises:
            ConfigError: there are too few experts, or the parameters are not such that the method means something.
        """
        del experts, shapes

    @abstractmethod
    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Gather what the method must know of the whole model, in bounded memory.

        Args:
            stacks: a fresh pass over all tensors at each call; called as often as the method has global passes.
            information: every expert's diagonal Fisher information, held as task vectors are; None unless
                `fisher` asks for it.

        Returns:
            The transform of one tensor of all experts; it may be called in any order, each tensor by itself.
        """

    @abstractmethod
    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the K' outputs: those of the experts, or `MERGED` where one update is made of all.

        Args:
            names: the experts' names, in the order of the stacks.

        Returns:
            K' names.
        """


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Refuse an option by name; a number must be finite as well.

    Args:
        condition: what must hold.
        key: the option.
        expected: the values it may take, in words.
        found: its value.

    Raises:
        ConfigError: where the condition does not hold.

    >>> require(False, "density", "a share in (0, 1]", 1.5)
    Traceback (most recent call last):
    adamerge.types.ConfigError: density must be a share in (0, 1], found 1.5.
    """
    if not condition or (isinstance(found, float) and not math.isfinite(found)):
        raise ConfigError(f"{key} must be {expected}, found {found!r}.")


def is_matrix(stack: Tensor) -> bool:
    """Whether the tensors of a stack have two dimensions or more, and so are treated as matrices.

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

    >>> import torch
    >>> vectors(torch.zeros(3)).shape, vectors(torch.zeros(3, 4, 5)).shape
    (torch.Size([3, 1]), torch.Size([3, 20]))
    """
    return stack.reshape(len(stack), -1)


def matrices(stack: Tensor) -> Tensor:
    """View tensors of two dimensions or more as matrices: rows are the first, columns all the others.

    Args:
        stack: (K, R, ...).

    Returns:
        (K, R, M).

    >>> import torch
    >>> matrices(torch.zeros(3, 4, 2, 5)).shape
    torch.Size([3, 4, 10])
    """
    return stack.flatten(2)


def per_expert(values: Tensor, stack: Tensor) -> Tensor:
    """Shape one value an expert so that it broadcasts over a stack.

    Args:
        values: (K,).
        stack: (K, *shape).

    Returns:
        (K, 1, ..., 1).
    """
    return values.to(stack.device).reshape(-1, *[1] * (stack.ndim - 1))
