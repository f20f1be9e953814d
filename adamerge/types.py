"""Type aliases and the two errors of the package.

Letters in shape comments have one meaning everywhere: K experts, G groups, B rows of a batch, S positions, C classes
(or tokens of a vocabulary), D hidden channels, R rows of a parameter, M its columns, N = R·M its elements.
"""

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

Coefficients: TypeAlias = Tensor
"""float, (G, K): factor of each expert's task vector per group of parameters."""

Parameters: TypeAlias = Mapping[str, Tensor]
"""Parameters or gradients per parameter name in the module."""


class Fact(str):
    """A line for the user on how something is read, which is printed but no reason for a warning."""


class ConfigError(ValueError):
    """A key, path, value or combination of values that the user wrote cannot be used.

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
