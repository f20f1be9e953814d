"""Rows of a folder of images: one row per file; classes are sub-folders, or columns of a metadata file."""

import os
from collections.abc import Container, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from adamerge.data.file_kinds import kind_of_file
from adamerge.data.records import Listed, Records
from adamerge.data.split_folders import InDoubt, split_of_images
from adamerge.data.table_files import Unread, open_tables_of

IMAGE, LABEL, FILE_NAME = "image", "label", "file_name"
"""Columns of a folder of images, and of metadata; the names are those of `datasets`."""


def is_image(path: Path) -> bool:
    """Return whether a file's ending is the one of an image.

    Example:
        >>> is_image(Path("a.JPEG")), is_image(Path("a.txt")), is_image(Path("a.mpg"))
        (True, False, False)
    """
    return path.suffix.lower() in ImageFolder.EXTENSIONS and kind_of_file(path.name) == "image"


def is_metadata(path: Path) -> bool:
    """Return whether a file has columns of images, as `datasets` names such files: metadata.csv and so on."""
    return path.name in ImageFolder.METADATA_FILENAMES


def open_images(folder: Path, files: Sequence[Path], split: str, largest: int | None = None) -> Unread:
    """Make one row per image of a folder, with the name of its sub-folder as label if all are one level deep.

    Args:
        folder: The folder.
        files: All files in it.
        split: Which split to take if the sub-folders are named after splits.
        largest: Largest number of bytes of the metadata files; None without a limit.

    Returns:
        The rows.

    Raises:
        ValueError: There is no such split, folders of splits stand beside others, or metadata do not fit the images;
            names the row.
    """
    every = [file for file in files if is_image(file)]
    images, notes, doubt = split_of_images(folder, every, split)
    metadata = [file for file in files if is_metadata(file) and _beside(file, images)]
    others = [file for file in files if not is_image(file) and not is_metadata(file)]
    if others:
        notes += (f"{len(others)} files that are no images are ignored, such as {others[0].name}.",)
    if metadata:
        chosen = doubt if any(_below(file.relative_to(folder), doubt) for file in metadata) else None
        others = {*every} - {*images}
        return replace(_with_metadata(folder, images, others, metadata, notes, largest), doubt=chosen)
    if doubt and doubt.splits:
        raise ValueError(doubt.words)
    if doubt:
        notes += (f"folders named after splits are read like others, as classes: {', '.join(doubt.folders[:8])}.",)
    return replace(_by_folder(folder, images, notes), doubt=doubt)


def _below(file: Path, doubt: InDoubt | None) -> bool:
    """Return whether a file of metadata stands in a folder that is named after a split; others name what they want."""
    return doubt is not None and any(file.is_relative_to(one) for one in doubt.folders)


def _by_folder(folder: Path, images: Sequence[Path], notes: tuple[str, ...]) -> Unread:
    classes, depths = sorted({file.parent.name for file in images}), {len(file.parts) for file in images}
    if len(classes) < 2:
        return _images(folder, images, (), notes)
    if len(depths) > 1:
        notes += ("images are at several depths, so the names of sub-folders are not read as labels.",)
        return _images(folder, images, (), notes)
    return _images(folder, images, classes, notes)


def _images(folder: Path, images: Sequence[Path], classes: Sequence[str], notes: tuple[str, ...]) -> Unread:
    read = partial(_read, folder, images, classes)
    return Unread(len(images), read, lambda column: read(range(len(images))).placed(column), notes)


def _beside(metadata: Path, images: Sequence[Path]) -> bool:
    return any(image.is_relative_to(metadata.parent) for image in images)


def _read(folder: Path, images: Sequence[Path], classes: Sequence[str], wanted: Sequence[int]) -> Listed:
    chosen = [images[index] for index in wanted]
    places = [f"row {i + 1} ({image.relative_to(folder)})" for i, image in zip(wanted, chosen, strict=True)]
    data: dict[str, list[object]] = {IMAGE: [str(image) for image in chosen]}
    if not classes:
        return Listed(data, places)
    return Listed({**data, LABEL: [image.parent.name for image in chosen]}, places, {LABEL: classes})


def _with_metadata(
    folder: Path,
    images: Sequence[Path],
    others: Container[Path],
    metadata: Sequence[Path],
    notes: tuple[str, ...],
    largest: int | None,
) -> Unread:
    """Join the rows of metadata files with the images that they name, relative to their own folder.

    Rows that name an image of `others`, which are those of other splits, are left out.
    """
    read: list[_Metadata] = []
    left_out = 0
    twice = next((file for file, after in pairwise(metadata) if file.parent == after.parent), None)
    if twice is not None:
        raise ValueError(f"expected one file of metadata in {twice.parent.name}, found several. Remove all but one.")
    for file in metadata:
        table = open_tables_of([file], largest)
        own = table.read(range(table.count))
        named = _named(file, own)
        if IMAGE in own.columns:
            notes += (f"{file.name}: the column {IMAGE!r} is not read: {FILE_NAME} names the images.",)
        missing = [place for path, place in named if not path.is_file()]
        if missing:
            raise ValueError(f"{missing[0]} names an image that does not exist. Correct or remove the row.")
        kept = [row for row, (path, _) in enumerate(named) if path not in others]
        left_out += len(named) - len(kept)
        read.append(_Metadata(file, table, kept, [named[row][0] for row in kept]))
    unnamed = {*images} - {path for one in read for path in one.images}
    if unnamed:
        notes += (f"{len(unnamed)} images are left out, because no metadata name them, such as {min(unnamed).name}.",)
    if left_out:
        notes += (f"{left_out} rows of metadata are left out, because their images are of other splits.",)
    rows = partial(_read_metadata, read)
    count = sum(len(one.rows) for one in read)
    return Unread(count, rows, lambda column: rows(range(count)).placed(column), notes)


class _Metadata(NamedTuple):
    """A file of metadata.

    Attributes:
        file: The file.
        table: Its rows.
        rows: Indices of those that are used.
        images: The image that each of these names.
    """

    file: Path
    table: Unread
    rows: Sequence[int]
    images: Sequence[Path]


def _named(file: Path, rows: Records) -> list[tuple[Path, str]]:
    """List the image that each row names, and where the row is."""
    if FILE_NAME not in rows.columns:
        raise ValueError(
            f"{file.name}: expected a column {FILE_NAME!r} with the image of each row, found none. "
            "Add it, or rename the file if it is not about the images."
        )
    names = rows.values(FILE_NAME)
    return [
        (Path(os.path.normpath(file.parent / str(name))), f"{file.name}: {rows.place(row)}")
        for row, name in enumerate(names)
    ]


def _read_metadata(read: Sequence[_Metadata], wanted: Sequence[int]) -> Listed:
    places: list[str] = []
    rows: list[dict[str, object]] = []
    for file, table, chosen, images in read:
        found = table.read(chosen)
        for row, image in enumerate(images):
            values = {name: found.value(name, row) for name in found.columns if name != FILE_NAME}
            rows.append({**values, IMAGE: str(image)})
            places.append(f"{file.name}: {found.place(row)}")
    names = dict.fromkeys(name for row in rows for name in row)
    return Listed({name: [row.get(name) for row in rows] for name in names}, places).select(wanted)
