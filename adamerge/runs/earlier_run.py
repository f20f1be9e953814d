"""Start from the coefficients of an earlier run, as a value of the key `init`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run; a path as `init:` means this.

    Attributes:
        path: Its run directory.
    """

    path: str
