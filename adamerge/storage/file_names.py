"""Names of files as users write them, and those that this system's encoding of file names cannot hold."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from adamerge.types import ConfigError, quoted


def at_home(place: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder in place of `~`; other names that begin so stay as they are, as in a shell.

    Example:
        >>> at_home("~no-such-user.jsonl").name, at_home("~") == Path.home()
        ('~no-such-user.jsonl', True)
    """
    return Path(os.path.expanduser(place))


def is_there(place: str | os.PathLike[str]) -> bool:
    """Return whether something lies at a path as users write it; at a text that is too long for one there is nothing.

    Example:
        >>> is_there("/"), is_there("x" * 5000)
        (True, False)
    """
    return os.path.exists(at_home(place))  # `Path.exists` would raise an OSError


def last_part(place: str) -> str:
    """Return the last part of a path or hub id; `@` begins the revision of an id, and nothing in a path.

    Example:
        >>> last_part("org/news@v1"), last_part("/home/@me/news"), last_part("./news@v1")
        ('news', 'news', 'news@v1')
    """
    path = place.startswith(("/", ".", "~")) or is_there(place)
    return Path(place if path else place.partition("@")[0]).name


def check_names(names: Iterable[str]) -> None:
    """Check that names can be names of files here, and can be written as text.

    Args:
        names: Names or paths.

    Raises:
        ConfigError: Lists the names that cannot, one per line.
    """
    problems = [problem for name in dict.fromkeys(names) if (problem := _problem(name))]
    if problems:
        raise ConfigError(*problems)


def unnamed(error: UnicodeError) -> str:
    """Say that a file's name could not be encoded; empty if the error is about something else.

    Example:
        >>> unnamed(UnicodeEncodeError("utf-8", "abc", 0, 1, "not a name"))
        ''
    """
    if not isinstance(error, UnicodeEncodeError) or error.encoding != sys.getfilesystemencoding():
        return ""
    return _problem(error.object)


def _problem(name: str) -> str:
    encoding = sys.getfilesystemencoding()
    try:
        _ = name.encode(encoding, "surrogateescape"), name.encode("utf-8")
    except UnicodeEncodeError:
        found = f"{quoted(name)} cannot be the name of a file here, where names are in {encoding.upper()}. "
        way = "Rename it" if encoding == "utf-8" else "Set PYTHONUTF8=1 (or LC_ALL=C.UTF-8), or use names in ASCII"
        return f"{found}{way}."
    return ""
