"""Libraries that cannot be imported, mostly for what environment variables say, in words in place of a traceback."""

import linecache
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import FrameSummary, extract_tb

_OWN = str(Path(__file__).parent)

_WORD = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
"""Names of environment variables that belong to a program; PATH and HOME are nobody's."""


def import_problem(error: BaseException) -> str | None:
    """Say that a library failed while it was imported, and which environment variables it reads; None if none did.

    Args:
        error: What was raised.

    Example:
        >>> import_problem(ValueError("a")) is None
        True
    """
    frames = [*extract_tb(error.__traceback__)]
    ours = [place for place, frame in enumerate(frames) if frame.filename.startswith(_OWN)]
    beyond = frames[ours[-1] + 1 :] if ours else []
    failed = [frame for frame in beyond if frame.name == "<module>"]
    if not failed:
        return None
    package = _package(failed[-1].filename)
    reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]
    names = list(dict.fromkeys(_read(beyond[::-1], package)))
    way = "Install it again (pip install --force-reinstall)."
    if names:
        found = ", ".join(f"{name}={os.environ[name][:40]!r}" for name in names[:5])
        way = f"It reads what the environment says: {found}. Correct it, or remove it: unset {' '.join(names[:5])}"
    return f"{package} cannot be imported ({reason}). {way}"


def _package(file: str) -> str:
    """Return the name of the package that a file belongs to."""
    parts = Path(file).parts
    at = next((place for place, part in enumerate(parts) if part in ("site-packages", "dist-packages")), len(parts) - 2)
    return parts[at + 1].removesuffix(".py")


def _read(frames: Sequence[FrameSummary], package: str) -> Iterator[str]:
    """Yield the variables that are set, and that lines where it failed name, or else its files, or that begin so."""
    lines = [name for frame in frames for name in _WORD.findall(frame.line or "") if name in os.environ]
    yield from lines
    if not lines:
        files = dict.fromkeys(frame.filename for frame in frames if package in Path(frame.filename).parts)
        whole = [name for file in files for line in linecache.getlines(file) for name in _WORD.findall(line)]
        yield from (name for name in whole if name in os.environ)
        yield from (name for name in os.environ if name.startswith(f"{package.upper()}_"))
