"""Partial files and folders: random names, locked while they are written, removed once nobody writes them."""

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from adamerge.storage.signals import unhurried

_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.partial", re.DOTALL)
_PARTIAL_0_1_0 = re.compile(r"\..+\.partial", re.DOTALL)
_LETTERS = 50
"""Letters of a name that its partial name repeats: file systems allow 255 bytes."""

JOURNAL = "journal"
"""File in a partial folder that says what was finished in it: another process may go on from there (resumable.py)."""


@contextmanager
def partial_file(path: Path) -> Generator[tuple[Path, int]]:
    """Create the partial file of a path; yields its path and its descriptor, which holds its lock.

    The name is random and the file is new, so nothing that lies there already is written to or followed. What is still
    there at the end is removed, and signals wait for that.
    """
    with _removed(path, lambda part: os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)) as made:
        yield made


@contextmanager
def partial_folder(path: Path) -> Generator[tuple[Path, int]]:
    """Create the partial folder of a path, as `partial_file` does a file."""
    with _removed(path, _make_folder) as made:
        yield made


def new_partial_folder(path: Path) -> tuple[Path, int]:
    """Create the partial folder of a path; returns its path and a descriptor, which holds its lock until closed."""
    return _new(path, _make_folder)


def _make_folder(part: Path) -> int:
    part.mkdir()
    return os.open(part, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def _removed(path: Path, make: Callable[[Path], int]) -> Generator[tuple[Path, int]]:
    made: tuple[Path, int] | None = None
    try:
        with unhurried():
            made = _new(path, make)
        yield made
    finally:
        with unhurried():
            if made is not None:
                remove(made[0])
                os.close(made[1])


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
    for part in partials_of(path):
        _remove_unlocked(part)


def take_leftover_of(path: Path, fits: Callable[[Path], bool]) -> tuple[Path, int] | None:
    """Lock the first partial folder of a path that a killed process left and that fits; remove the others.

    Args:
        path: The path.
        fits: Whether to go on in a folder, which is this user's own.

    Returns:
        The folder and a descriptor, which holds its lock until it is closed; None if there is none.
    """
    taken: tuple[Path, int] | None = None
    for part in partials_of(path):
        handle = _lock_unlocked(part)
        if handle is not None and taken is None and _is_own_folder(handle) and fits(part):
            taken = part, handle
        elif handle is not None:
            remove(part)
            os.close(handle)
    return taken


def partials_of(path: Path) -> list[Path]:
    """List the partial files and folders of a path, whoever is writing them."""
    with os.scandir(path.parent) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".partial"))
    matches = [match for name in names if (match := _PARTIAL.fullmatch(name))]
    return [path.with_name(match.string) for match in matches if match["name"] == path.name[:_LETTERS]]


def remove_leftovers_in(folder: Path) -> None:
    """Remove all partial files and folders below a folder that nobody has locked, those of version 0.1.0 too.

    A folder with a journal stays: whoever writes its path again goes on in it, or removes it.
    """
    for part in [part for part in folder.rglob("*.partial") if _PARTIAL_0_1_0.fullmatch(part.name)]:
        if not any(_has_journal(place) for place in (part, *part.parents)):
            _remove_unlocked(part)


def _has_journal(place: Path) -> bool:
    return bool(_PARTIAL.fullmatch(place.name)) and (place / JOURNAL).exists()


def _remove_unlocked(part: Path) -> None:
    handle = _lock_unlocked(part)
    if handle is not None:
        remove(part)
        os.close(handle)


def _lock_unlocked(part: Path) -> int | None:
    """Open and lock a partial file or folder; None if another process has it, or it is gone, a link or another's."""
    try:
        handle = os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if lock(handle) and is_at(handle, part):
        return handle
    os.close(handle)
    return None


def _is_own_folder(handle: int) -> bool:
    found = os.fstat(handle)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
