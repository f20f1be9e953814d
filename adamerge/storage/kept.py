"""Results that are kept: made, or read where they are kept under the same key and undamaged.

Beside a kept file or folder lies NAME.key.json: the key, which tells what the result was made of, and the SHA-256 of
the content. A result of another key, or with another content, is removed and made anew.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

from safetensors import SafetensorError

from adamerge.storage.atomic_files import partial_name, write_text
from adamerge.storage.digest import digest_of_path
from adamerge.types import ConfigError

Key: TypeAlias = Mapping[str, str]
"""Hashes of what a result is made of, by what they are of: experts, rows, settings. An entry that the reader does not
know (rows that are not at hand) is missing, and is not compared."""

Kept = TypeVar("Kept")


class _Note(NamedTuple):
    """Content of NAME.key.json; of version 0.1.0's the key is None."""

    key: Key | None
    sha256: str | None


def _silent(line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Keeper:
    """Keeps results, each under its key.

    Attributes:
        tell: Called with a line of text where a kept result does not fit and is made anew.
        accept_unkeyed: Whether a result without a key is taken as it is, as version 0.1.0 kept them: for run
            directories, whose experts, rows and configuration are compared before anything is read.

    Example:
        >>> import tempfile
        >>> def make(path: Path) -> None:
        ...     print("made")
        ...     write_text(path, "content")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for experts in ("a", "a", "b"):
        ...         text = Keeper()(Path(folder) / "result.txt", {"experts": experts}, make, Path.read_text)
        made
        made
    """

    tell: Callable[[str], None] = _silent
    accept_unkeyed: bool = False

    def __call__(self, path: Path, key: Key, make: Callable[[Path], None] | None, read: Callable[[Path], Kept]) -> Kept:
        """Read a kept result, or make it.

        Args:
            path: The file or folder.
            key: What the result is made of.
            make: Writes the result there, whole or not at all; None where it cannot be made.
            read: Reads it.

        Raises:
            ConfigError: The result is not there or does not fit, and cannot be made.
        """
        found, problem = self._look(path, key, read)
        if found is not None:
            return found
        if make is None:
            raise ConfigError(f"{path}: expected what the run made of its rows, but it {problem}; run it once more.")
        self._remove(path, problem)
        self.store(path, key, make)
        return read(path)

    def find(self, path: Path, key: Key, read: Callable[[Path], Kept]) -> Kept | None:
        """Read a kept result; None if there is none, and one that does not fit is removed."""
        found, problem = self._look(path, key, read)
        if found is None:
            self._remove(path, problem)
        return found

    def store(self, path: Path, key: Key, make: Callable[[Path], None]) -> None:
        """Make a result and note its key; a former one is gone already."""
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        write_text(key_file(path), json.dumps({"key": dict(key), "sha256": digest_of_path(path)}) + "\n")

    def _look(self, path: Path, key: Key, read: Callable[[Path], Kept]) -> tuple[Kept | None, str]:
        """The result, or what is wrong with it."""
        if not path.exists():
            return None, "is gone"
        note = _note(path)
        if note.key is None and not self.accept_unkeyed:
            return None, "has no key"
        others = [word for word, value in key.items() if note.key is not None and note.key.get(word) != value]
        if others:
            return None, f"is made of other {' and '.join(others)}"
        if note.sha256 is not None and note.sha256 != digest_of_path(path):
            return None, "is damaged"
        try:
            found = read(path)
        except (OSError, ValueError, KeyError, SafetensorError):
            return None, "is damaged"
        if note.key is None:
            self.tell(f"{path}: has no key, as version 0.1.0 kept it; taken as it is")
        return found, ""

    def _remove(self, path: Path, problem: str) -> None:
        """Remove a result that does not fit: first the result, so that it is never there without its key."""
        if path.exists():
            self.tell(f"{path}: {problem}; made anew")
        if path.is_dir():
            aside = partial_name(path)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            shutil.rmtree(aside)
        path.unlink(missing_ok=True)
        key_file(path).unlink(missing_ok=True)


def key_file(path: Path) -> Path:
    """Where the key of a kept result lies.

    Example:
        >>> key_file(Path("run/centre.safetensors")).name, key_file(Path("run/first_stage")).name
        ('centre.key.json', 'first_stage.key.json')
    """
    return path.with_suffix(".key.json")


def _note(path: Path) -> _Note:
    """What is noted of a result; a note of version 0.1.0 has no key, and an unreadable one a hash that nothing has."""
    try:
        note = json.loads(key_file(path).read_text(encoding="utf-8"))
        key, sha256 = note.get("key"), note.get("sha256")
    except FileNotFoundError:
        return _Note(None, None)
    except (OSError, ValueError, AttributeError):
        return _Note(None, "unreadable")
    return _Note(key if isinstance(key, dict) else None, sha256)
