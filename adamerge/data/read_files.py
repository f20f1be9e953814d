"""Rows from files, folders and the hub: which reader takes which source."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
from datasets.config import HF_DATASETS_CACHE

from adamerge.data.arrow_files import check_saved_files
from adamerge.data.file_kinds import refusal_of
from adamerge.data.image_folders import is_image, open_images
from adamerge.data.list_files import list_files, missing_shards, no_split, split_of_tables
from adamerge.data.read_parquet import check_saved
from adamerge.data.records import Arrow
from adamerge.data.settings import DataSource
from adamerge.data.table_files import Unread, endings, is_table, open_tables, open_tables_of
from adamerge.experts.name_patterns import several
from adamerge.storage.file_names import at_home
from adamerge.storage.quiet_loggers import without_records
from adamerge.storage.regular_files import is_folder, problem_of, reason_of

_DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json"})
"""Files in which `datasets` and the hub describe the rows beside them."""

_ROWS_OF_SAVED = ".arrow"
"""Ending of the files of a saved dataset."""


def open_rows(source: DataSource) -> Unread:
    """Count the rows of a source in any supported format.

    Files and folders are read by our own code, without a cache; Parquet by pyarrow, saved datasets and hub datasets by
    `datasets`.

    Args:
        source: Path or hub id, and the split.

    Returns:
        The rows, not read yet.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: It cannot be read, or has no such split; `datasets` also raises errors of its own.
    """
    path = at_home(source.path)
    if is_folder(path):
        found = _open_folder(path, source)
        return replace(found, notes=(*found.notes, *_no_name(source.name)))
    if os.path.lexists(path) or is_table(path):
        found, notes = _open_file(path, source.max_bytes), no_split(source.split)
        return replace(found, notes=(*found.notes, *notes, *_no_name(source.name)))
    kept = f"the rows come from the hub and stay in the cache of datasets ({HF_DATASETS_CACHE})."
    return replace(_of_dataset(_from_hub(source)), notes=(kept,))


def _no_name(name: str | None) -> tuple[str, ...]:
    """Say that a configuration of a hub data set was named, which files and folders here do not have."""
    return () if name is None else (f"there are no configurations here, so all is read (key name: {name}).",)


def _open_file(path: Path, largest: int) -> Unread:
    if not os.path.lexists(path):
        raise FileNotFoundError(str(path))
    problem = problem_of(path)
    if problem is not None:
        raise ValueError(problem)
    if not is_table(path):
        if refused := refusal_of([path]):
            raise ValueError(refused)
        raise ValueError(f"expected a file that ends in {endings()}, found {path.name}. Convert or rename it.")
    return open_tables([path], largest) if path.stat().st_size else _of_dataset(datasets.Dataset.from_dict({}))


def _open_folder(folder: Path, source: DataSource) -> Unread:
    split = source.split
    if folder.resolve() == Path(folder.resolve().anchor):
        raise ValueError("expected a folder of rows, found the root of the file system. Correct the path.")
    files, passed = list_files(folder)  # refuses pipes, which `datasets` would wait for
    if _is_saved(folder):
        saved = _saved(folder, split)
        one = () if (folder / "dataset_dict.json").exists() else no_split(split)
        return replace(_of_dataset(saved), notes=(*check_saved(saved), *one, *_not_listed(saved, files)))
    if any(is_image(file) for file in files):
        found = open_images(folder, files, split, source.max_bytes)
        return replace(found, notes=(*passed, *found.notes))
    tables = [file for file in files if is_table(file) and file.name not in _DESCRIPTIONS]
    if not tables and any(file.suffix == _ROWS_OF_SAVED for file in files):
        raise ValueError(
            f"expected state.json beside files that end in {_ROWS_OF_SAVED}, as datasets saves them, found none. Save "
            "the rows again with save_to_disk, or as Parquet."
        )
    if not tables and (refused := refusal_of(files)):
        raise ValueError(refused)
    if not tables:
        raise ValueError(
            "expected a folder of images, of tables or a saved datasets directory, found neither; name one, or a file "
            f"that ends in {endings()}.{''.join(f' ({note})' for note in passed)}"
        )
    chosen, notes = split_of_tables(folder, tables, split)
    if len(tables) < len(files):
        other = next(file for file in files if file not in tables)
        notes += (f"{len(files) - len(tables)} files that are no tables are ignored, such as {other.name}.",)
    columns = sorted({part for file in chosen for part in file.relative_to(folder).parts[:-1] if "=" in part})
    if columns:
        notes += (f"names of folders are not read as columns: {several(columns)}. Write the values into the rows.",)
    found = open_tables_of(chosen, source.max_bytes)
    return replace(found, notes=(*passed, *notes, *missing_shards(chosen), *found.notes))


def _is_saved(folder: Path) -> bool:
    """Return whether `datasets` saved this folder; files on the hub are described by dataset_info.json alone."""
    both = all((folder / name).exists() for name in ("dataset_info.json", "state.json"))
    return both or (folder / "dataset_dict.json").exists()


def _not_listed(saved: datasets.Dataset, files: Sequence[Path]) -> tuple[str, ...]:
    """Say which files with rows stand beside those of a saved dataset and are not read; caches of `map` are none."""
    own = {Path(str(file["filename"])).resolve() for file in saved.cache_files}
    folders = {file.parent for file in own}
    rows = [file for file in files if is_table(file) or file.suffix == _ROWS_OF_SAVED]
    others = [file for file in rows if file.resolve() not in own and file.resolve().parent in folders]
    others = [file for file in others if file.name not in {*_DESCRIPTIONS, "state.json"}]
    others = [file for file in others if not file.name.startswith("cache-")]
    if not others:
        return ()
    return (f"{len(others)} files that state.json does not list are not read, such as {others[0].name}.",)


def _saved(path: Path, split: str) -> datasets.Dataset:
    check_saved_files(path)
    try:
        saved = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise ValueError(f"the saved dataset is not complete ({first_line(error)}). Copy or save it again.") from error
    except Exception as error:  # of values of another type `datasets` raises anything
        raise ValueError(
            f"state.json, dataset_info.json and the files that they list are no saved dataset ({reason_of(error)}). "
            "Copy them again, or save the rows again with save_to_disk."
        ) from error
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if split not in saved:
        raise ValueError(
            f"there is no split {split!r}; the splits are {', '.join(map(str, saved))}. Set the key split to one of "
            "them."
        )
    return saved[split]


def _from_hub(source: DataSource) -> datasets.Dataset:
    datasets.disable_progress_bars()
    with without_records("huggingface_hub", logging.NOTSET):  # our own error reports that the hub does not answer
        loaded = datasets.load_dataset(source.path, source.name, split=source.split)
    assert isinstance(loaded, datasets.Dataset)  # one split of a dataset that is not streamed
    return loaded


def _of_dataset(data: datasets.Dataset) -> Unread:
    rows = Arrow(data)
    return Unread(len(data), rows.select, rows.placed)


def first_line(error: BaseException) -> str:
    """Return the first line of the message of another library's error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
