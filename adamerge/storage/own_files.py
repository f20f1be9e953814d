"""Read a run's own files back; errors name the file and how to go on."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, cast

from adamerge.storage.regular_files import LARGEST_JSON, problem_of, read_whole, reason_of
from adamerge.types import ConfigError, IncompatibleExpertsError, quoted

Form: TypeAlias = "type | Mapping[str, Form]"
"""What a JSON value must be: of a type, or keys with values of a form."""

EVERY = "*"
"""Key of a form that stands for every other key."""


class DamagedFileError(ConfigError):
    """A file that a run wrote has another content than the run gave it."""


@contextmanager
def own_file(path: Path, what: str, way: str) -> Generator[None]:
    """Read a file that a run wrote; whatever is raised on the way says that the file is damaged.

    Args:
        path: The file.
        what: What it is expected to be.
        way: What the user can do.

    Raises:
        ConfigError: It is no file, or cannot be read.
        DamagedFileError: Anything was raised inside the block.

    Example:
        >>> with own_file(Path(__file__), "numbers", "Restore it."):  # doctest: +ELLIPSIS
        ...     int("x")
        Traceback (most recent call last):
        adamerge.storage.own_files.DamagedFileError: ...: expected numbers, but the file is damaged (...
    """
    problem = problem_of(path)
    if problem is not None:
        raise ConfigError(f"{path}: {problem} Expected {what}. {way}")
    try:
        yield
    except Exception as error:  # libraries raise anything on damaged files
        if isinstance(error, ConfigError | IncompatibleExpertsError) and str(path) in str(error):
            raise
        raise DamagedFileError(
            f"{path}: expected {what}, but the file is damaged ({reason_of(error)}). {way}"
        ) from error


def own_json(path: Path, what: str, way: str, form: Form) -> dict[str, object]:
    """Read a JSON object that a run wrote.

    Args:
        path: The file.
        what: What it is expected to be.
        way: What the user can do.
        form: What its values must be.

    Raises:
        ConfigError: It is no file, or cannot be read.
        DamagedFileError: It is no JSON, or of another form.
    """
    with own_file(path, what, way):
        content = json.loads(read_whole(path, LARGEST_JSON).decode("utf-8"))
        check_form(content, form if isinstance(form, Mapping) else {EVERY: form})
    return cast(dict[str, object], content)


def check_form(value: object, form: Form, key: str = "") -> None:
    """Check that a JSON value has a form.

    Args:
        value: The value.
        form: Its form; of several keys, all but `EVERY` must be there.
        key: Where the value stands.

    Raises:
        ValueError: Names the first key that is missing, or whose value has another type.

    Example:
        >>> check_form({"news": {"sha256": None}}, {EVERY: {"sha256": str}})
        Traceback (most recent call last):
        ValueError: news.sha256: expected str, found null
    """
    if isinstance(form, type):
        if not isinstance(value, form):
            raise ValueError(f"{key or 'content'}: expected {form.__name__}, found {quoted(value)}")
        return
    if not isinstance(value, dict):
        raise ValueError(f"{key or 'content'}: expected keys and values, found {quoted(value)}")
    missing = next((name for name in form if name != EVERY and name not in value), None)
    if missing is not None:
        raise ValueError(f"{f'{key}.{missing}'.lstrip('.')}: is missing")
    for name, inner in cast(dict[str, object], value).items():
        if name in form or EVERY in form:
            check_form(inner, form.get(name, form.get(EVERY, object)), f"{key}.{name}".lstrip("."))
