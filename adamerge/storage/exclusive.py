"""Exclusive use of a folder: one process at a time, and the others are told which."""

import errno
import json
import os
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from adamerge.storage.partial_paths import is_at, lock
from adamerge.storage.signals import unhurried
from adamerge.types import ConfigError

LOCK = ".lock"
"""File in a folder that its user has locked; it says who that is."""


@contextmanager
def used_alone(folder: Path, what: str, tell: Callable[[str], None] = lambda line: None) -> Generator[None]:
    """Use a folder while no other process can: it is made if it is missing, and removed if it is left empty.

    The lock is the system's (`flock`), so it ends with its process, however that ends. A folder that cannot be written
    to is used without one.

    Args:
        folder: The folder.
        what: What the process does there, for others to read.
        tell: Called with a line of text if the file system has no locks.

    Raises:
        ConfigError: Another process uses the folder; says which, where, and since when. Or it is a file,
            or what should be its lock is a folder or a link.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place, used_alone(Path(place), "adamerge fit"):
        ...     print(os.listdir(place))
        ['.lock']
    """
    if folder.is_file():
        raise ConfigError(f"{folder}: already exists, and is a file; expected a folder, or a path that is free.")
    made: list[Path] = []
    handle: int | None = None
    try:
        with unhurried():
            made = _make(folder)
            handle = _acquire(folder, what, tell)
        yield
    finally:
        with unhurried():
            _leave(folder, handle, made)


def _leave(folder: Path, handle: int | None, made: Sequence[Path]) -> None:
    """Remove the lock file, and the folder and its parents as far as they were made here and are empty."""
    if handle is not None:
        with suppress(OSError):  # a folder that became unwritable, or was removed
            (folder / LOCK).unlink()
        os.close(handle)
    for own in made:
        with suppress(OSError):  # not empty
            own.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder; returns it and its parents as far as they were missing, itself first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(folder: Path, what: str, tell: Callable[[str], None]) -> int | None:
    """Open and lock the lock file of a folder; returns its descriptor, None if the folder cannot be written to."""
    file = folder / LOCK
    while (handle := _open(file)) is not None:
        held = lock(handle)
        if held is False:
            holder = _holder(handle)
            os.close(handle)
            raise ConfigError(
                f"{folder}: expected a folder that no other process uses, but {holder}. Wait until that process has "
                "ended, or choose another folder."
            )
        if held is None:
            tell(f"note: {folder}: this file system has no locks; make sure that no other process uses the folder.")
        if is_at(handle, file):
            _sign(handle, what)
            return handle
        os.close(handle)  # its former user has just removed it
    return None


def _open(file: Path) -> int | None:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP):
            found = "link" if file.is_symlink() else "folder"
            raise ConfigError(
                f"{file}: expected the file that locks this folder, found a {found}. Remove it."
            ) from error
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    return os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) if file.exists() else None


def _sign(handle: int, what: str) -> None:
    """Write who holds the lock."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "what": what}
    with suppress(OSError):  # another user's file, which can only be read
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)


def _holder(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, 10_000, 0))
        return "process {pid} on {host} has used it since {since} ({what})".format(**found)
    except (OSError, ValueError, LookupError, TypeError):
        return "another process uses it (it has not written which)"
