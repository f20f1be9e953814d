"""The seam: a plan over all tensors, then one tensor of all experts at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeAlias

from torch import Tensor

from adamerge.types import ConfigError

TensorTransform: TypeAlias = Callable[[str, Tensor], Tensor]
"""(parameter name, stack (K, *shape) fp32) → (K', *shape)."""

Stacks: TypeAlias = Callable[[], Iterator[tuple[str, Tensor]]]
"""A fresh pass over all tensors, one stack (K, *shape) at a time, in the order of the module's parameters."""

MERGED = ("merged",)
"""The names of the outputs of a method that yields one update of all experts."""


class Transform(ABC):
    """One tensor of all experts at a time, K·N numbers, never more.

    The outputs are task vectors like any other. Published, they are added to the base in a plain sum, each multiplied
    by `coefficient`; learned methods put their own coefficients there.
    """

    @property
    @abstractmethod
    def coefficient(self) -> float:
        """The published scale of each output in the plain sum base + coefficient · Σ outputs."""

    @abstractmethod
    def plan(self, stacks: Stacks) -> TensorTransform:
        """Gather what the method must know of the whole model, in bounded memory.

        Args:
            stacks: a fresh pass over all tensors at each call; called as often as the method has global passes.

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
    """Refuse an option by name.

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
    if not condition:
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
