"""Files of a folder of rows: tables or images, and the split that their names tell."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from adamerge.storage.regular_files import problem_of

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}
"""Split by the words that name it in folders and files; those of `datasets`."""

_LEFT_BY_TOOLS = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "@eadir", "$recycle.bin"}
)
"""Names without a leading point that Windows, macOS, Python and network storage leave, in lower case."""

_SHARD = re.compile(r"(.*?)[-_.]?(\d{1,6})-of-(\d{1,6})\D", re.IGNORECASE)
"""Names of shards, such as train-00000-of-00003.jsonl: name, number and count."""


def list_files(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """List the files below a folder, sorted by their path; links are followed.

    What operating systems and tools leave, and what is hidden, is passed over.

    Args:
        folder: Any folder; its name may contain any character.

    Returns:
        The files, a note if some are passed over, and one if some are links to others among them.
    """
    passed: list[Path] = []
    files = sorted(_walk(folder, set(), passed), key=lambda file: file.relative_to(folder).as_posix())
    return files, (*_passed_over(folder, sorted(passed)), *_linked(folder, files))


def is_left_by_a_tool(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that operating systems and tools leave among others.

    Example:
        >>> [is_left_by_a_tool(name) for name in (".DS_Store", "Thumbs.db", "__MACOSX", "__background__", "_1.jsonl")]
        [True, True, True, False, False]
    """
    return name.startswith(".") or name.lower() in _LEFT_BY_TOOLS


def _walk(folder: Path, parents: set[str], passed: list[Path]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in parents:  # a link to a folder above
        return
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if is_left_by_a_tool(entry.name):
            passed.append(folder / entry.name)
        elif os.path.isdir(folder / entry.name):  # a link to itself is none, where `is_dir` raises
            yield from _walk(folder / entry.name, parents | {here}, passed)
        else:
            problem = problem_of(folder / entry.name)
            if problem is not None:
                raise ValueError(f"{entry.name}: {problem} Remove it from the folder, or name a file.")
            yield folder / entry.name


def _passed_over(folder: Path, passed: Sequence[Path]) -> tuple[str, ...]:
    """Say how many files are passed over; those in a folder that is passed over are counted."""
    count = sum(_count(path) for path in passed)
    if not count:
        return ()
    first = passed[0].relative_to(folder).as_posix()
    words = (
        "1 file that is hidden or left by a tool is"
        if count == 1
        else f"{count} files that are hidden or left by tools are"
    )
    return (f"{words} passed over, such as {first}. Rename what should be read.",)


def _linked(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """Say how many files are, by hard or symbolic links, further names of others among them."""
    first: dict[tuple[int, int], Path] = {}
    linked: list[tuple[Path, Path]] = []
    for file in files:
        status = file.stat()
        one = first.setdefault((status.st_dev, status.st_ino), file)
        if one is not file:
            linked.append((file, one))
    if not linked:
        return ()
    link, file = (path.relative_to(folder).as_posix() for path in linked[0])
    words = "1 file is a further name" if len(linked) == 1 else f"{len(linked)} files are further names"
    return (
        f"{words} (a link) of what is read already, such as {link} of {file}: its rows count again. Remove what is not "
        "meant.",
    )


def _count(path: Path) -> int:
    return sum(len(files) for *_, files in os.walk(path)) if path.is_dir() else 1


def split_of_tables(folder: Path, files: Sequence[Path], split: str) -> tuple[list[Path], tuple[str, ...]]:
    """Choose the tables of a split if all are named after splits, such as train-00000-of-00002; else all are chosen.

    Args:
        folder: The folder.
        files: The tables in it.
        split: Name of the split.

    Returns:
        The tables, and a note if some were not chosen.

    Raises:
        ValueError: There is no such split, or some tables alone are named after a split.
    """
    names = {file: split_in(file.relative_to(folder)) for file in files}
    found = sorted({name for name in names.values() if name is not None})
    if not found:
        return list(files), no_split(split)
    if set(names.values()) == {found[0]}:
        return list(files), only(found[0], split, "files")
    if None in names.values():
        raise ValueError(
            f"expected files of one table, found files of the splits {', '.join(found)} beside others, such as "
            f"{_first_without(names)}. Name one file, or a folder with the files of one split."
        )
    return chosen_of(names, found, split, "files")


def missing_shards(files: Sequence[Path]) -> tuple[str, ...]:
    """Say which shards are not there, where the names of files tell how many there should be.

    Args:
        files: Files of one table.

    Example:
        >>> missing_shards([Path("train-00000-of-00003.jsonl"), Path("train-00002-of-00003.jsonl")])
        ('train: 2 of 3 files are there, 1 is missing (the first: 00001), and so are its rows.',)
    """
    found: dict[tuple[str, str], set[int]] = {}
    for file in files:
        match = _SHARD.match(file.name)
        if match:
            found.setdefault((match[1], match[3]), set()).add(int(match[2]))
    return tuple(note for (name, count), numbers in found.items() for note in _missing(name, count, numbers))


def _missing(name: str, count: str, numbers: set[int]) -> Iterator[str]:
    first = 1 if int(count) in numbers else 0  # datasets counts from 0, others from 1
    missing = [number for number in range(first, first + int(count)) if number not in numbers]
    if missing:
        are, rows = ("1 is", "its rows") if len(missing) == 1 else (f"{len(missing)} are", "their rows")
        yield (
            f"{name}: {int(count) - len(missing)} of {int(count)} files are there, {are} missing (the first: "
            f"{missing[0]:0{len(count)}}), and so are {rows}."
        )


def only(found: str, split: str, what: str) -> tuple[str, ...]:
    """Say that the only split is read where another one was asked for.

    Args:
        found: The only split.
        split: Name of the split that was asked for.
        what: What is named after it, for the note.
    """
    if found == SPLITS.get(split.lower()):
        return ()
    return (f"all {what} are named after the split {found}, which is read (key split: {split}).",)


def no_split(split: str) -> tuple[str, ...]:
    """Say that all rows are read where a split was asked for, because nothing is named after one.

    Args:
        split: Name of the split that was asked for; the default says nothing.
    """
    return () if split == "train" else (f"nothing is named after a split, so all is read (key split: {split}).",)


def split_in(path: Path) -> str | None:
    """Find the split that a path tells by a whole word of one of its parts; the file itself counts first.

    Example:
        >>> split_in(Path("train2017/val-0.csv")), split_in(Path("training_set/0.csv")), split_in(Path("trained/0.csv"))
        ('validation', 'train', None)
    """
    words = [word for part in reversed(path.parts) for word in re.split(r"[^a-z]+", part.lower())]
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _first_without(names: dict[Path, str | None]) -> str:
    return next(file.name for file, name in names.items() if name is None)


def chosen_of(
    names: dict[Path, str | None], found: Sequence[str], split: str, what: str
) -> tuple[list[Path], tuple[str, ...]]:
    """Choose the files of the split that was asked for.

    Args:
        names: Split of each file.
        found: All splits.
        split: Name of the split that was asked for.
        what: What is named after splits, for notes.

    Returns:
        The files, and a note.

    Raises:
        ValueError: There is no such split.
    """
    wanted = SPLITS.get(split.lower())
    if wanted not in found:
        raise ValueError(
            f"there is no split {split!r}; the {what} are named after the splits {', '.join(found)}. Set the key split "
            "to one of them."
        )
    chosen = [file for file, name in names.items() if name == wanted]
    return chosen, (
        f"the {what} are named after the splits {', '.join(found)}: {wanted} is read, {len(chosen)} of {len(names)} "
        "files (key split).",
    )
