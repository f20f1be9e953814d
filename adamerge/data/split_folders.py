"""Folders of images whose sub-folders are named after splits, and those of which it is in doubt."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from adamerge.data.list_files import SPLITS, chosen_of, no_split, only, split_in
from adamerge.data.words import folded


class InDoubt(NamedTuple):
    """Folders named after splits that stand beside other folders or files, or below them: splits, or classes.

    Attributes:
        folders: The folders' paths within the source.
        other: What stands beside one of them; empty if nothing does.
        classes: Number of classes, if images stand in these folders themselves, so that their names are labels.
        splits: Whether they are several splits whose own sub-folders are classes, whatever the model says.
    """

    folders: tuple[str, ...]
    other: str
    classes: int = 0
    splits: bool = False

    def problem(self, names: Mapping[int, str], count: int) -> str | None:
        """Say what is wrong, unless the folders are named after classes of the model.

        Args:
            names: Names of the model's classes by index.
            count: Number of its classes.
        """
        known = {folded(name) for name in names.values()}
        unnamed = not names or known == {f"label_{index}" for index in range(count)}
        if all(folded(Path(folder).name) in known for folder in self.folders) or (unnamed and self.classes == count):
            return None
        return f"{self.words} They are no classes of the model; folders that are classes need a name in id2label."

    @property
    def words(self) -> str:
        """Describe what was found, and what to do."""
        beside = f" beside others ({self.other})" if self.other else ""
        return (
            f"expected images of one split, found folders named after splits, {', '.join(self.folders[:8])}{beside}. "
            "Name the folder of one split, or move what does not belong to it elsewhere."
        )


def split_of_images(
    folder: Path, files: Sequence[Path], split: str
) -> tuple[list[Path], tuple[str, ...], InDoubt | None]:
    """Choose the images of a split if all sub-folders of a folder are named after splits; else all are chosen.

    A class that is called train does not make a split: then the other sub-folders have other names. Whether it is one
    is for the model's classes to say.

    Args:
        folder: The folder.
        files: The images in it.
        split: Name of the split.

    Returns:
        The images, a note if some were not chosen, and what is in doubt if all were.

    Raises:
        ValueError: There is no such split.
    """
    tops = {file: _top(file.relative_to(folder)) for file in files}
    names = {file: SPLITS.get(top.lower()) for file, top in tops.items()}
    found = sorted({name for name in names.values() if name is not None})
    if None in names.values() or not found:
        return list(files), no_split(split), _in_doubt([file.relative_to(folder) for file in files])
    if len(found) == 1:
        return list(files), only(found[0], split, "sub-folders"), None
    return *chosen_of(names, found, split, "sub-folders"), None


def _top(file: Path) -> str:
    return file.parts[0] if len(file.parts) > 1 else ""


def _in_doubt(files: Sequence[Path]) -> InDoubt | None:
    """Find the folders that are named after splits: by their whole name, or several splits by a word of it."""
    folders = dict.fromkeys(parent for file in files for parent in reversed(file.parents[:-1]))
    exact = [one for one in folders if one.name.lower() in SPLITS]
    by_word = {one: split for one in folders if (split := split_in(Path(one.name))) is not None}
    named = exact or (list(by_word) if len(set(by_word.values())) > 1 else [])
    if not named:
        return None
    inside = any(one.is_relative_to(other) and one != other for one in folders for other in named)
    several = len({split_in(Path(one.name)) for one in named}) > 1
    direct = {file.parent for file in files}
    classes = {parent.name for parent in direct} if all(one in direct for one in named) else set[str]()
    count = len(classes) if classes - {one.name for one in named} else 0  # splits alone are no classes
    return InDoubt(tuple(one.as_posix() for one in named), _other(named, folders, files), count, several and inside)


def _other(named: Sequence[Path], folders: Iterable[Path], files: Sequence[Path]) -> str:
    """Find a folder or a file that stands beside one of the named folders."""
    levels = {one.parent for one in named}
    beside = [one for one in (*folders, *files) if one.parent in levels and one not in named]
    return beside[0].as_posix() if beside else ""
