"""Sizes as people write them: 8GB, 500 MB, 1GiB."""

import re

from adamerge.types import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def bytes_in(size: int | str, key: str) -> int:
    """Read a size in bytes.

    Args:
        size: A number of bytes, or a number with a unit.
        key: Name of the setting in errors.

    Raises:
        ConfigError: It is no size, or not above 0.

    Example:
        >>> bytes_in("1.5 GB", "limit"), bytes_in("1GiB", "limit"), bytes_in(500, "limit")
        (1500000000, 1073741824, 500)
    """
    found = _bytes_in(size, key)
    if found <= 0:
        raise ConfigError(f"{key}: expected a size above 0, found {size!r}.")
    return found


def _bytes_in(size: int | str, key: str) -> int:
    if not isinstance(size, str):
        return size
    found = _SIZE.fullmatch(size.strip())
    if not found:
        raise ConfigError(f"{key}: expected a size such as 8GB or 500MB, found {size!r}.")
    number, unit, binary = found.groups()
    power = list(_UNITS).index(unit.lower())
    return int(float(number) * (2 ** (10 * power) if binary else _UNITS[unit.lower()]))
