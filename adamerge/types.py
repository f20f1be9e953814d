"""Domain aliases and the two errors of the package.

The letters of shape comments mean one thing everywhere: K experts, G groups, B rows of a batch, S positions,
C classes (or words of a vocabulary), D hidden channels, R rows of a parameter, M its columns, N = R·M its numbers.
"""

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

Coefficients: TypeAlias = Tensor
"""float, (G, K): how much of each expert's task vector a group of parameters takes."""

Parameters: TypeAlias = Mapping[str, Tensor]
"""Parameters or gradients by their name in the module."""


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
