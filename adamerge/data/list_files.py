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


def list_files(folder: Path) -> list[Path]:
    """List the files below a folder, sorted by their path; hidden ones are left out, links are followed.

    Args:
        folder: Any folder; its name may contain any character.
    """
    return sorted(_walk(folder, set()), key=lambda file: file.relative_to(folder).as_posix())


def _walk(folder: Path, parents: set[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in parents:  # a link to a folder above
        return
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith((".", "__"))]
    for entry in visible:
        if entry.is_dir():
            yield from _walk(folder / entry.name, parents | {here})
        else:
            problem = problem_of(folder / entry.name)
            if problem is not None:
                raise ValueError(f"{entry.name}: {problem} Remove it from the folder, or name a file.")
            yield folder / entry.name


def split_of_images(folder: Path, files: Sequence[Path], split: str) -> tuple[list[Path], tuple[str, ...]]:
    """Choose the images of a split if all sub-folders of a folder are named after splits; else all are chosen.

    A class that is called train does not make a split: then the other sub-folders have other names.

    Args:
        folder: The folder.
        files: The images in it.
        split: Name of the split.

    Returns:
        The images, and a note if some were not chosen.

    Raises:
        ValueError: There is no such split.
    """
    names = {file: SPLITS.get(file.relative_to(folder).parts[0].lower()) for file in files}
    one_level = any(len(file.relative_to(folder).parts) == 1 for file in files)
    found = sorted({name for name in names.values() if name is not None})
    if one_level or None in names.values() or len(found) < 2:
        return list(files), ()
    return _chosen(names, found, split, "sub-folders")


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
    names = {file: _split_in(file.relative_to(folder)) for file in files}
    found = sorted({name for name in names.values() if name is not None})
    if not found or set(names.values()) == {found[0]}:
        return list(files), ()
    if None in names.values():
        raise ValueError(
            f"expected files of one table, found files of the splits {', '.join(found)} beside others, such as "
            f"{_first_without(names)}. Name one file, or a folder with the files of one split."
        )
    return _chosen(names, found, split, "files")


def _split_in(path: Path) -> str | None:
    """Find the split that a path tells by a whole word of one of its parts; the file itself counts first."""
    words = [word for part in reversed(path.parts) for word in re.split(r"[^a-z]+", part.lower())]
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _first_without(names: dict[Path, str | None]) -> str:
    return next(file.name for file, name in names.items() if name is None)


def _chosen(
    names: dict[Path, str | None], found: Sequence[str], split: str, what: str
) -> tuple[list[Path], tuple[str, ...]]:
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
