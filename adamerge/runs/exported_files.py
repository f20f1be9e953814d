"""Hash the files of an export, so that a replay can be compared with it."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from adamerge.storage.digest import digest_of_path
from adamerge.types import ConfigError

_TEXTS = ("", ".md", ".txt", ".png", ".html")
"""Endings of files that nobody loads as part of a model: a card, notes, pictures."""

_MOST = 5
"""Number of files that are named."""


def hash_export(folder: Path) -> dict[str, str]:
    """Hash every file of an export by SHA-256; a file that is linked into several folders is read once.

    Args:
        folder: The export.

    Returns:
        SHA-256 by path below the folder.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    known: dict[tuple[int, int], str] = {}
    found: dict[str, str] = {}
    for file in files:
        stat = file.stat()
        own = (stat.st_dev, stat.st_ino)
        known[own] = known.get(own) or digest_of_path(file)
        found[file.relative_to(folder).as_posix()] = known[own]
    return found


def different_files(expected: Mapping[str, str], folder: Path) -> list[str]:
    """List the files of an export that are not those that are expected.

    Args:
        expected: SHA-256 by path.
        folder: The export.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     different_files({"config.json": "0"}, Path(folder))
        ['config.json is missing']
    """
    return [f"{name} {how}" for name, how in _differences(expected, folder).items()]


def _differences(expected: Mapping[str, str], folder: Path) -> dict[str, str]:
    found = hash_export(folder)
    return {
        name: "is missing" if name not in found else "is new" if name not in expected else "has other content"
        for name in sorted({*expected, *found})
        if expected.get(name) != found.get(name)
    }


def check_as_written(expected: Mapping[str, str], folder: Path, way: str) -> None:
    """Refuse an export that is not as its run wrote it, apart from its cards and from notes beside it.

    Args:
        expected: SHA-256 by path.
        folder: The export.
        way: What the user can do.

    Raises:
        ConfigError: Files are missing, changed or new; names them.
    """
    different = _differences(expected, folder)
    found = [f"{name} {how}" for name, how in different.items() if _is_loaded(name, expected)]
    if found:
        more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise ConfigError(
            f"{folder}: expected the files that the run wrote, found others: {'; '.join(found[:_MOST])}{more}. {way}"
        )


def _is_loaded(name: str, expected: Mapping[str, str]) -> bool:
    """Return whether a file counts: vocabularies end with .txt too, so only new files are judged by their names."""
    path = PurePosixPath(name)
    return path.name != "README.md" and (name in expected or path.suffix not in _TEXTS)
