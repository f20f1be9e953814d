"""Largest size of a file of weights, as users write it."""

import re

from adamerge.results.export import SHARD_BYTES
from adamerge.types import ConfigError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of_size(size: str | int | None) -> int:
    """Convert a size to bytes; None gives the default.

    Args:
        size: A number with a unit, 5GB or 500MB (powers of 1000, as in transformers) or 1GiB (powers of 1024).

    Raises:
        ConfigError: The text is no size above 0.

    Example:
        >>> bytes_of_size("500MB"), bytes_of_size("1.5 GB"), bytes_of_size("1KiB")
        (500000000, 1500000000, 1024)
    """
    if size is None:
        return SHARD_BYTES
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", str(size).strip(), re.IGNORECASE)
    unit = found[2].upper() if found else ""
    number = (
        int(float(found[1]) * (2 ** (10 * "KMGT".find(unit) + 10) if found[3] and unit else _UNITS[unit]))
        if found
        else 0
    )
    if number < 1:
        raise ConfigError(f"max_shard_size: expected a size such as 5GB or 500MB, found {size!r}.")
    return number
