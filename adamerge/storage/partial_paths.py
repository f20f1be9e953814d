"""Partial files and folders: random names, locked while they are written, removed once nobody writes them."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.partial", re.DOTALL)
_PARTIAL_0_1_0 = re.compile(r"\..+\.partial", re.DOTALL)
_LETTERS = 50
"""Letters of a name that its partial name repeats: file systems allow 255 bytes."""


def new_partial_file(path: Path) -> tuple[Path, int]:
    """Create the partial file of a path; returns its path and its descriptor, which holds its lock until it is closed.

    The name is random and the file is new, so nothing that lies there already is written to or followed.
    """
    return _new(path, lambda part: os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def new_partial_folder(path: Path) -> tuple[Path, int]:
    """Create the partial folder of a path; returns its path and a descriptor, which holds its lock until closed."""

    def make(part: Path) -> int:
        part.mkdir()
        return os.open(part, os.O_RDONLY | os.O_CLOEXEC)

    return _new(path, make)


def _new(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Create something new and lock it, again if another process took it for a leftover in between."""
    while True:
        part = path.with_name(f".{path.name[:_LETTERS]}.{secrets.token_hex(8)}.partial")
        handle = make(part)
        if lock(handle) is not False and is_at(handle, part):
            return part, handle
        os.close(handle)


def lock(handle: int) -> bool | None:
    """Lock an open file or folder for this process: True if it is now, False if another has it, None without locks.

    The system frees the lock when the last descriptor is closed, also after `kill -9`.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return None
    return True


def is_at(handle: int, path: Path) -> bool:
    """Return whether an open file or folder is still what stands at a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


def remove_leftovers_of(path: Path) -> None:
    """Remove the partial files and folders of a path that killed processes left: those that nobody has locked."""
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(".partial")]
    for name in names:
        match = _PARTIAL.fullmatch(name)
        if match and match["name"] == path.name[:_LETTERS]:
            _remove_unlocked(path.with_name(name))


def remove_leftovers_in(folder: Path) -> None:
    """Remove all partial files and folders below a folder that nobody has locked, those of version 0.1.0 too."""
    for part in [part for part in folder.rglob("*.partial") if _PARTIAL_0_1_0.fullmatch(part.name)]:
        _remove_unlocked(part)


def _remove_unlocked(part: Path) -> None:
    try:
        handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone in the meantime, a link, or another user's
        return
    try:
        if lock(handle) and is_at(handle, part):
            remove(part)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
