"""What is refused before it is opened: pipes, devices, folders in place of files, and files too large to be right."""

import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, cast

from adamerge.types import ConfigError, IncompatibleExpertsError

Refusal: TypeAlias = type[ConfigError | IncompatibleExpertsError]

LARGEST_JSON = 2**28
"""Largest size of a JSON file in bytes."""

_DENIED_FOLDER = "cannot be read (permission denied). Allow it to be read: chmod u+rx, or ask its owner."

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def problem_of(path: Path, largest: int | None = None) -> str | None:
    """Say why a path cannot be read as a file; None if it can. Nothing is opened.

    Args:
        path: The path.
        largest: Largest size in bytes of a file that can be right.

    Example:
        >>> problem_of(Path("/dev/null")), problem_of(Path(__file__)), problem_of(Path(__file__), largest=1)[:34]
        ('expected a file, found a device. Correct the path.', None, 'expected a file of at most 1 bytes')
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (
            "is a link to a file that does not exist."
            if path.is_symlink()
            else "there is no such file. Correct the path, or copy the file there."
        )
    except (OSError, ValueError) as error:
        return f"cannot be read ({reason_of(error)})."
    if not stat.S_ISREG(found.st_mode):
        return f"expected a file, found {_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}. Correct the path."
    if not os.access(path, os.R_OK):
        return "cannot be read (permission denied). Allow it to be read: chmod u+r, or ask its owner."
    if largest is not None and found.st_size > largest:
        return f"expected a file of at most {largest} bytes, found {found.st_size}. Correct the path."
    return None


def check_regular(path: Path, largest: int | None = None) -> None:
    """Check that a path can be read as a file; see `problem_of`.

    Raises:
        ConfigError: Names the path and why it cannot be read.
    """
    problem = problem_of(path, largest)
    if problem is not None:
        raise ConfigError(f"{path}: {problem}")


def nearest(place: Path) -> Path:
    """Return what there is of an absolute path: itself, or the lowest of the folders above it.

    Example:
        >>> nearest(Path("/no-such-folder/below"))
        PosixPath('/')
    """
    return next(path for path in (place, *place.parents) if os.path.lexists(path))


def read_whole(path: Path, largest: int) -> bytes:
    """Read a file of at most `largest` bytes.

    Raises:
        ConfigError: It cannot be read, or is larger.
    """
    check_regular(path, largest)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)}).") from error


def is_folder(path: Path) -> bool:
    r"""Return whether a path is a folder, whatever characters it has.

    Raises:
        ConfigError: A folder above it may not be entered, so that it is unknown.

    Example:
        >>> is_folder(Path("/")), is_folder(Path("a\0b"))
        (True, False)
    """
    try:
        return path.is_dir()
    except PermissionError as error:
        raise ConfigError(f"{path}: a folder above it {_DENIED_FOLDER}") from error
    except (OSError, ValueError):
        return False


def read_json(
    path: Path, error: Refusal = ConfigError, *, what: str = "JSON", advice: str = "Copy or download the file again."
) -> object:
    """Read a JSON file.

    Args:
        path: The file.
        error: Class of the error if it is not JSON.
        what: What the file is expected to be.
        advice: What to do if it is something else.

    Raises:
        ConfigError: It cannot be read, or is not JSON; or the other class.
    """
    content = read_whole(path, LARGEST_JSON)
    with reading(f"{path}: expected {what}, but it cannot be read", advice, error):
        return json.loads(content.decode("utf-8"))


def settings_of(path: Path) -> dict[str, object]:
    """Read a JSON file of keys and values; empty if there is none, or none that can be read.

    Example:
        >>> settings_of(Path("/dev/null"))
        {}
    """
    try:
        found = read_json(path)
    except ConfigError:
        return {}
    return cast(dict[str, object], found) if isinstance(found, dict) else {}


def check_folder(folder: Path) -> None:
    """Check, before another library opens files in a folder, that each entry with an ending is a file or a folder.

    Raises:
        ConfigError: The folder cannot be listed; or names the first entry that is neither, that cannot be read, or that
            is a folder called as a file.
    """
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"{folder}: {_DENIED_FOLDER}")
    for path in sorted(folder.iterdir()):
        problem = problem_of(path)
        if problem and (not path.is_dir() or path.suffix in _FILES):
            raise ConfigError(f"{path}: {problem}")


_FILES = (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Endings of the files that a checkpoint is read from."""


@contextmanager
def reading(
    what: str, advice: str, error: type[ConfigError | IncompatibleExpertsError] = ConfigError
) -> Generator[None]:
    """Turn whatever another library raises on a file into an error that names the file and what to do.

    Args:
        what: The file or folder, and what it was expected to be.
        advice: What to do.
        error: Class of the error.

    Raises:
        ConfigError: Anything was raised inside the block; or the other class.
    """
    try:
        yield
    except (ConfigError, IncompatibleExpertsError):
        raise
    except Exception as found:  # other libraries raise anything on damaged files
        raise error(f"{what} ({reason_of(found)}). {advice}") from found


def reason_of(error: Exception) -> str:
    r"""Return the first line of an error's message, or its name.

    Example:
        >>> reason_of(ValueError("one\ntwo")), reason_of(KeyError())
        ('ValueError: one', 'KeyError')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = first_line(error)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message, with what a colon at its end announces; empty if it has none.

    Example:
        >>> [first_line(ValueError(words)) for words in ("away\nsince noon", "lr:\n  below 0", "")]
        ['away', 'lr: below 0', '']
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    count = next((number for number, line in enumerate(lines, start=1) if not line.endswith(":")), len(lines))
    return " ".join(lines[:count])
