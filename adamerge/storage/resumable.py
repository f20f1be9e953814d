"""Folders that take long to write: what is finished is noted, and after a kill another process goes on from there."""

import json
import os
import zlib
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

from adamerge.storage.atomic_files import appear, named_in_errors
from adamerge.storage.kept import Key
from adamerge.storage.partial_paths import JOURNAL, new_partial_folder, remove, take_leftover_of
from adamerge.storage.signals import unhurried

_KEY = ""
"""Name of the note that holds the key."""

Note: TypeAlias = Mapping[str, object]
"""What is noted of something finished: a JSON object."""


@dataclass(frozen=True)
class Begun:
    """A folder that is being written, perhaps since a process that was killed.

    Attributes:
        place: The partial folder, with a journal and the files so far.
        finished: What the journal says of everything finished, by its name.
        others: In what an interrupted process differed, of which the files were removed.
    """

    place: Path
    finished: dict[str, Note] = field(default_factory=dict[str, Note])
    others: tuple[str, ...] = ()

    @property
    def files(self) -> Path:
        """Folder that appears when it is complete."""
        return self.place / "files"

    def note(self, name: str, found: Note) -> None:
        """Note that something is finished: its bytes must be in a file, whose order on disk is free.

        A line that a kill or a full disk tore is ignored, by its checksum; what it was of is written again.
        """
        _append(self.place / JOURNAL, name, found)
        self.finished[name] = found

    def remove_all_but(self, files: Collection[str]) -> None:
        """Remove everything but these files, and these too where they are links or have links."""
        with os.scandir(self.files) as entries:
            for entry in sorted(entries, key=lambda one: one.is_file(follow_symlinks=False)):  # folders' links first
                kept = entry.name in files and entry.is_file(follow_symlinks=False)
                if not kept or os.lstat(entry).st_nlink > 1:
                    remove(Path(entry))


@contextmanager
def resumable_folder(path: Path, key: Key) -> Generator[Begun]:
    """Make a folder that appears at `path`, synced, only if the block ends without an exception.

    What an interrupted process left of it is taken over, or removed, as by `begun_folder`.

    Args:
        path: The folder.
        key: Hashes of everything that decides what is written.
    """
    with begun_folder(path, key) as begun:
        yield begun
        appear(begun.files, path)


@contextmanager
def begun_folder(path: Path, key: Key) -> Generator[Begun]:
    """Make a folder beside `path` to write in, or take over what an interrupted process left there with the same key.

    What was left with another key is removed, and so is the folder at the end. It stays after an interruption, on a
    full disk too, if something was noted; then the error says where.

    Args:
        path: What the folder is for.
        key: Hashes of everything that decides what is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    opened: tuple[Begun, int] | None = None
    stays = False
    try:
        with unhurried():
            opened = _begin(path, key)
        begun = opened[0]
        begun.files.mkdir(exist_ok=True)
        if not (begun.place / JOURNAL).exists():
            _append(begun.place / JOURNAL, _KEY, key)
        yield begun
    except (KeyboardInterrupt, OSError) as error:
        stays = opened is not None and bool(opened[0].finished) and not os.path.lexists(path)
        if opened and stays:
            error.add_note(f"What was written is in {opened[0].place}: the same export goes on from there.")
        raise
    finally:
        with unhurried():
            if opened and not stays:
                remove(opened[0].place)
            if opened:
                os.close(opened[1])


def _begin(path: Path, key: Key) -> tuple[Begun, int]:
    """Take over what has the same key, or begin."""
    others = dict[str, None]()

    def fits(part: Path) -> bool:
        own = _notes(part).get(_KEY, {})
        others.update({word: None for word, value in key.items() if own and own.get(word) != value})
        return own == key

    taken = take_leftover_of(path, fits)
    place, handle = taken or new_partial_folder(path)
    finished = {name: note for name, note in _notes(place).items() if name != _KEY}
    return Begun(place, finished, () if taken else tuple(others)), handle


def _append(journal: Path, name: str, found: Note) -> None:
    text = json.dumps([name, found]).encode()
    with named_in_errors(journal), journal.open("ab") as file:
        file.write(b"\n%08x %b" % (zlib.crc32(text), text))


def _notes(place: Path) -> dict[str, Note]:
    """Read a journal: its lines that are whole, the last of each name."""
    return dict(_lines(place / JOURNAL))


def _lines(journal: Path) -> Iterator[tuple[str, Note]]:
    if journal.is_symlink() or not journal.is_file():
        return
    for line in journal.read_bytes().split(b"\n"):
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text):
            yield cast(tuple[str, Note], tuple(json.loads(text)))
