"""Texts in a pickled file, such as the names of tensors, without unpickling it: nothing in it is run."""

import pickletools
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

_MOST = 2**24
"""Bytes of a pickle that are looked at; names come first, tensors lie elsewhere in a file of torch."""

_LEGACY = 5
"""Number of pickles, one after the other, in a file of torch before 1.6; the names are in the fourth."""


def pickled_names(file: Path) -> list[str]:
    """List the texts in a pickled file; those before damage, if it is damaged.

    Args:
        file: A file of `torch.save`, new or old.

    Example:
        >>> pickled_names(Path("/dev/null"))
        []
    """
    found: list[str] = []
    try:
        with _pickle(file) as content:
            for _ in range(_LEGACY):
                found += _texts(content)
    except Exception:  # zipfile and pickletools raise any exception on damaged bytes
        return found
    return found


def _pickle(file: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as content:
            return BytesIO(content.read(_MOST))
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(name) as content:
            return BytesIO(content.read(_MOST))


def _texts(content: IO[bytes]) -> Iterator[str]:
    """Yield the texts of one pickle."""
    for _, argument, _ in pickletools.genops(content):
        if isinstance(argument, str):
            yield argument
