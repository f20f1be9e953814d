"""Hash the files of an export, so that a replay can be compared with it."""

from collections.abc import Mapping
from pathlib import Path

from adamerge.storage.digest import digest_of_path


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
    found = hash_export(folder)
    return [
        f"{name} {'is missing' if name not in found else 'is new' if name not in expected else 'has other content'}"
        for name in sorted({*expected, *found})
        if expected.get(name) != found.get(name)
    ]
