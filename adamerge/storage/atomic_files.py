"""Write files and folders that are either complete or absent, never incomplete."""

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path

from adamerge.storage.partial_paths import partial_file, partial_folder, remove, remove_leftovers_of
from adamerge.storage.signals import unhurried
from adamerge.types import ConfigError


@contextmanager
def whole_file(path: Path) -> Generator[BufferedWriter]:
    """Open a file that appears at `path`, synced, only if the block ends without an exception.

    Until then it has a random name, and is locked: what a killed process left is removed by the next one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "a.txt") as file:
        ...         _ = file.write(b"words")
        ...         print(*(name[-8:] for name in os.listdir(folder)))
        ...     print(os.listdir(folder))
        .partial
        ['a.txt']
    """
    with named_in_errors(path):
        remove_leftovers_of(path)
        with partial_file(path) as (part, handle), os.fdopen(handle, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
            _sync(path.parent)


@contextmanager
def file_in_place(path: Path) -> Generator[BufferedWriter]:
    """Open a file to be written where it lies, with what it holds, or a new one; it may be read by its descriptor too.

    For files in a folder that is itself complete or absent.
    """
    with named_in_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(handle, "wb") as file:  # of a descriptor, "w" cuts nothing off
            yield file


@contextmanager
def named_in_errors(path: Path) -> Generator[None]:
    """Name the file in errors of a full disk, which do not.

    Args:
        path: The file that is written.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """Make a folder that appears at `path`, synced, only if the block ends without an exception.

    Until then it has a random name, and is locked: what a killed process left is removed by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers_of(path)
    with partial_folder(path) as (part, _):
        yield part
        appear(part, path)


@contextmanager
def temporary_folder() -> Generator[Path]:
    """Make a folder where the system has temporary files; at the end it is removed, and signals wait for that."""
    folder: Path | None = None
    try:
        with unhurried():
            folder = Path(tempfile.mkdtemp(prefix="adamerge-"))
        yield folder
    finally:
        with unhurried():
            if folder is not None:
                remove(folder)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that are read until the process ends."""


def kept_folder() -> Path:
    """Make a folder where the system has temporary files; it is removed when the process ends."""
    with unhurried():
        _KEPT.append(tempfile.TemporaryDirectory(prefix="adamerge-", ignore_cleanup_errors=True))
    return Path(_KEPT[-1].name)


@contextmanager
def without_kept_folders() -> Generator[None]:
    """Remove all folders of `kept_folder` at the end of the block, and let signals wait for that.

    A process that ends tidies up too, but not where another signal meets it there.
    """
    try:
        yield
    finally:
        with unhurried():
            while _KEPT:
                _KEPT.pop().cleanup()


def appear(folder: Path, path: Path) -> None:
    """Rename a complete folder to its path, with everything in it on disk.

    Raises:
        ConfigError: Another process has written the path in the meantime.
    """
    for inside in (*folder.rglob("*"), folder):
        _sync(inside)
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise ConfigError(f"{path}: exists already: another process has written it in the meantime.") from error
    _sync(path.parent)


def remove_whole(path: Path) -> None:
    """Remove a folder that others never see incomplete: it is renamed first."""
    remove_leftovers_of(path)
    with partial_folder(path) as (part, _):
        path.rename(part / "removed")


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk: without its folder, a synced file may lose its name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            error.filename = str(path)
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a complete text file, or none."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_named(path: Path, text: str) -> None:
    """Write a complete text file where the user wants it, or none; folders that are missing there are made."""
    with named_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
