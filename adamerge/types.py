"""Domain aliases and the two errors of the package.

The letters of shape comments mean one thing everywhere: K experts, G groups, B rows of a batch, S positions,
C classes (or words of a vocabulary), D hidden channels, R rows of a parameter, M its columns, N = R·M its numbers.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor

Coefficients: TypeAlias = Tensor
"""float, (G, K): how much of each expert's task vector a group of parameters takes."""

Parameters: TypeAlias = Mapping[str, Tensor]
"""Parameters or gradients by their name in the module."""


class Batch(NamedTuple):
    """Some rows of one task.

    Attributes:
        inputs: Keyword arguments of the task's module.
        rows: Which rows of the task's data these are, int64, (B,).
        positions: Which positions count, bool, (B, S); None where the model says one thing a row.
        labels: (B,), or (B, S) with -100 where there is none; None where the rows have no labels.
    """

    inputs: Mapping[str, Tensor]
    rows: Tensor
    positions: Tensor | None = None
    labels: Tensor | None = None


class Outputs(NamedTuple):
    """What a task's model says of a batch.

    Attributes:
        logits: (B, C), or (B, S, C) where the model speaks at every position. With `top`, log-probabilities of those
            words, and of all the rest together, (…, k + 1).
        hidden: Hidden states that were asked for, each (B, S, D).
        top: Indices of the likeliest words, int64, (…, k), where no more than these was kept.
        encoded: Of each hidden state, whether it is of an encoder that a decoder reads.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    top: Tensor | None = None
    encoded: tuple[bool, ...] = ()


class ConfigError(ValueError):
    """Something the user wrote (a key, a path, a value, a pair of choices) cannot be used as it stands.

    Example:
        >>> from adamerge import Box
        >>> Box(lower=1.0, upper=0.0)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        adamerge.types.ConfigError: ...
    """


class IncompatibleExpertsError(ValueError):
    """Base and experts are not checkpoints of one architecture, or a checkpoint cannot be read.

    Example:
        >>> from torch.nn import Linear
        >>> from adamerge import Merge
        >>> Merge(Linear(2, 2), {"wide": Linear(2, 3)}, method="average").learn()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        adamerge.types.IncompatibleExpertsError: ...
    """
