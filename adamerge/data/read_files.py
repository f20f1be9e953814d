"""Rows from files, folders and the hub, read by `datasets`."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets

from adamerge.data.settings import DataSource

_FORMATS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def read_rows(source: DataSource) -> datasets.Dataset:
    """Read the rows of a source in any supported format.

    Args:
        source: Path or hub id, and the split.

    Returns:
        The rows.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: It cannot be read, or has no such split; `datasets` also raises errors of its own.
    """
    datasets.disable_progress_bars()
    with (
        _quiet("datasets.packaged_modules"),
        _quiet("huggingface_hub"),
    ):  # our own error names the row, or reports that the hub does not answer
        return _rows_of(source)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger inside the block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _rows_of(source: DataSource) -> datasets.Dataset:
    path = Path(source.path).expanduser()
    if path.is_dir() and any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return _saved(path, source.split)
    if path.is_dir():
        if not any(file.suffix.lower() in _IMAGES for file in path.rglob("*")):
            raise ValueError(
                "expected a folder of images or a saved datasets directory, found neither; name one, or a file."
            )
        return _table(datasets.load_dataset("imagefolder", data_dir=str(path), split="train"))
    if path.suffix in _FORMATS:
        if not path.exists():
            raise FileNotFoundError(str(path))
        if path.stat().st_size == 0:
            return datasets.Dataset.from_dict({})
        if path.suffix == ".tsv":
            return _table(datasets.load_dataset("csv", data_files=str(path), split="train", sep="\t"))
        return _table(datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train"))
    return _table(datasets.load_dataset(source.path, source.name, split=source.split))


def _saved(path: Path, split: str) -> datasets.Dataset:
    saved = datasets.load_from_disk(str(path))
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if split not in saved:
        raise ValueError(
            f"there is no split {split!r}; the splits are {', '.join(map(str, saved))}. Set the key split to one of "
            "them."
        )
    return saved[split]


def _table(loaded: object) -> datasets.Dataset:
    assert isinstance(loaded, datasets.Dataset)  # one split of a dataset that is not streamed
    return loaded


def broken_row(source: DataSource) -> str | None:
    """Describe the first line of a JSON Lines file that is not JSON, or return None."""
    path = Path(source.path).expanduser()
    if path.suffix not in (".jsonl", ".json") or not path.is_file():
        return None
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            json.loads(line or "{}")
        except ValueError as error:
            return f"row {number} is not JSON ({error}): {line[:80]}"
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of the message of another library's error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
