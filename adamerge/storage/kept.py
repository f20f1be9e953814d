"""Stored results: computed once, and read while their cache key is the same and the file is not damaged.

Each stored file or folder has a NAME.key.json beside it with the cache key, which identifies the inputs of the result,
and the SHA-256 of the content. If key or content differ, the result is deleted and computed again.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, cast

from adamerge.storage.atomic_files import remove_whole, write_text
from adamerge.storage.digest import digest_of_path
from adamerge.storage.own_files import EVERY, own_json
from adamerge.storage.partial_paths import remove
from adamerge.storage.regular_files import check_regular
from adamerge.types import ConfigError

Key: TypeAlias = Mapping[str, str]
"""Hashes of a result's inputs per kind: experts, rows, settings. Kinds that are missing in the reader's key (rows that
are not available) are not compared."""

Kept = TypeVar("Kept")


class _Note(NamedTuple):
    """Content of NAME.key.json; the key is None in files of version 0.1.0."""

    key: Key | None
    sha256: str | None


def _silent(line: str) -> None:
    """Print nothing."""


@dataclass(frozen=True)
class Keeper:
    """Store results, each under its cache key.

    Attributes:
        tell: Called with a line of text when a stored result does not match and is computed again.
        accept_unkeyed: Whether to accept results without a key, as version 0.1.0 stored them; for run directories,
            whose experts, rows and configuration are compared before anything is read.
        only_reads: Whether to refuse, rather than to compute, what is not stored: another process has stored it.

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
    only_reads: bool = False

    def __call__(self, path: Path, key: Key, make: Callable[[Path], None] | None, read: Callable[[Path], Kept]) -> Kept:
        """Read a stored result, or compute and store it.

        Args:
            path: File or folder of the result.
            key: Cache key of the result.
            make: Writes the complete result to a path, or nothing; None if the result cannot be computed.
            read: Reads the result from a path.

        Raises:
            ConfigError: The result is missing or does not match, and cannot be computed.
        """
        found, problem = self._look(path, key, read)
        if found is not None:
            return found
        if self.only_reads:
            raise ConfigError(
                f"{path}: expected what the first process made of the same files, but it {problem}. All processes must "
                "see the same files, and one run_dir."
            )
        if make is None:
            raise ConfigError(
                f"{path}: expected what the run made of its rows, but it {problem}. Resume the run, which "
                "makes it anew: adamerge fit --config RUN/config.yaml --ckpt_path last"
            )
        self._remove(path, problem)
        self.store(path, key, make)
        return read(path)

    def find(self, path: Path, key: Key, read: Callable[[Path], Kept]) -> Kept | None:
        """Read a stored result; if it does not match, delete it and return None."""
        found, problem = self._look(path, key, read)
        if found is None and not self.only_reads:
            self._remove(path, problem)
        return found

    def store(self, path: Path, key: Key, make: Callable[[Path], None]) -> None:
        """Compute a result and write its key; any former result must be deleted before.

        Raises:
            ConfigError: A file lies where the result's folder should be.
        """
        _make_folder(path.parent)
        make(path)
        write_text(key_file(path), json.dumps({"key": dict(key), "sha256": digest_of_path(path)}) + "\n")

    def _look(self, path: Path, key: Key, read: Callable[[Path], Kept]) -> tuple[Kept | None, str]:
        """Return the result, or a description of what is wrong with it."""
        if not path.exists():
            return None, "is gone"
        note = _note(path)
        if note.key is None and not self.accept_unkeyed:
            return None, "has no key"
        others = [word for word, value in key.items() if note.key is not None and note.key.get(word) != value]
        if others:
            return None, f"is made of other {' and '.join(others)}"
        try:
            check_regular(path) if not path.is_dir() else None
            if note.sha256 is not None and note.sha256 != digest_of_path(path):
                return None, "is damaged"
            found = read(path)
        except Exception:  # libraries raise anything on damaged files
            return None, "is damaged"
        if note.key is None:
            self.tell(f"{path}: has no key, as version 0.1.0 kept it; taken as it is")
        return found, ""

    def _remove(self, path: Path, problem: str) -> None:
        """Delete a result that does not match: first the result, so that it never exists without its key."""
        _make_folder(path.parent)
        if path.exists():
            self.tell(f"{path}: {problem}; computed again")
        if path.is_dir():
            remove_whole(path)
        path.unlink(missing_ok=True)
        remove(key_file(path))


SILENT = Keeper()
"""Computes again, without a message, what does not match."""


def key_file(path: Path) -> Path:
    """Return the path of a stored result's key.

    Example:
        >>> key_file(Path("run/centre.safetensors")).name, key_file(Path("run/first_stage")).name
        ('centre.key.json', 'first_stage.key.json')
    """
    return path.with_suffix(".key.json")


def is_intact(path: Path) -> bool:
    """Return whether a stored result has the content that its key file tells, or no key file, as in version 0.1.0."""
    note = _note(path)
    return note.sha256 is None or (path.exists() and note.sha256 == digest_of_path(path))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"{folder}: expected a folder of stored results, but a file lies there. Move the file away."
        ) from error


def _note(path: Path) -> _Note:
    """Read a result's key file: without key for version 0.1.0, with a hash that never matches if it is damaged."""
    file = key_file(path)
    if not os.path.lexists(file):
        return _Note(None, None)
    try:
        note = own_json(file, "a cache key", "", {"key": {EVERY: str}, "sha256": str})
    except ConfigError:
        return _Note(None, "unreadable")
    return _Note(cast(Key, note["key"]), str(note["sha256"]))
