"""Tables of rows from files, folders and the hub (the file that knows `datasets`), and hashes of what they hold."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import torch
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from PIL import Image

from adamerge.data.rows import DataSource
from adamerge.types import ConfigError

_FORMATS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True, eq=False)
class Table:
    """One task's rows as they were read.

    Attributes:
        data: The rows.
        source: Where they come from and what their columns are called.
        task: Whose they are.
    """

    data: datasets.Dataset
    source: DataSource
    task: str

    def __len__(self) -> int:
        return len(self.data)

    def error(self, message: str) -> ConfigError:
        """What is wrong with these rows, with the task's and the file's name before it."""
        return ConfigError(f"{self.task}: {self.source.path}: {message}")

    def sample(self, count: int | None, seed: int) -> "Table":
        """`count` rows drawn with the seed, in their old order; all where there are no more, or None is said."""
        if count is None or count >= len(self.data):
            return self
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))
        return replace(self, data=self.data.select(sorted(order[:count].tolist())))

    def require(self, columns: Sequence[str]) -> None:
        """Refuse a table that lacks a column.

        Raises:
            ConfigError: Names the missing column and those that are there.
        """
        for column in columns:
            if column not in self.data.column_names:
                raise self.error(
                    f"expected a column {column!r}, but the columns are {', '.join(self.data.column_names)}. Name the "
                    "right one in the task's data settings."
                )

    def values(self, column: str) -> list[object]:
        """A column as it stands.

        Raises:
            ConfigError: It is not text in UTF-8.
        """
        try:
            return list(self.data[column])
        except UnicodeDecodeError as error:
            raise self.error(f"the column {column!r} is not text in UTF-8 ({error}).") from error

    def texts(self, column: str) -> list[str]:
        """A column of texts.

        Raises:
            ConfigError: Names the row that has none.
        """
        texts: list[str] = []
        for number, text in enumerate(self.values(column), 1):
            if not isinstance(text, str):
                raise self.error(f"row {number} has {text!r} where {column!r} should be a text.")
            texts.append(text)
        return texts

    def longest(self, column: str) -> "Table":
        """The row with the longest text alone."""
        texts = self.texts(column)
        return replace(self, data=self.data.select([max(range(len(texts)), key=lambda i: len(texts[i]))]))

    def with_images(self, column: str) -> "Table":
        """The same with a column of images, or of paths of images, that are decoded when they are read."""
        try:
            return replace(self, data=self.data.cast_column(column, datasets.Image()))
        except (TypeError, ValueError, NotImplementedError) as error:
            kind = self.data.features[column]
            raise self.error(
                f"expected images or paths of images in the column {column!r}, but it is {kind}."
            ) from error

    def names(self, column: str) -> list[str] | None:
        """Names of the classes of a column of class indices, in the order of the indices; None for other columns."""
        kind = self.data.features[column]
        return list(kind.names) if isinstance(kind, datasets.ClassLabel) else None


@dataclass(frozen=True)
class Contents:
    """Hashes of what each row holds, whatever its columns, its file and the file's date are.

    Attributes:
        columns: A hash for every row, by what a column is for (text, image, label and so on).
    """

    columns: Mapping[str, Sequence[bytes]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all rows in their order."""
        digest = hashlib.sha256()
        for role, hashes in sorted(self.columns.items()):
            digest.update(role.encode() + len(hashes).to_bytes(8, "little") + b"".join(hashes))
        return digest.hexdigest()

    def overlap(self, other: "Contents") -> int:
        """How many of these rows stand in `other` too; labels, and columns that one of the two lacks, are left out.

        Example:
            >>> Contents({"text": [b"1", b"2"]}).overlap(Contents({"text": [b"2", b"3"], "label": [b"0", b"1"]}))
            1
        """
        roles = sorted((self.columns.keys() & other.columns.keys()) - {"label"})
        if not roles:
            return 0
        known = set(zip(*(other.columns[role] for role in roles), strict=True))
        return sum(row in known for row in zip(*(self.columns[role] for role in roles), strict=True))


def contents(table: Table, columns: Mapping[str, str]) -> Contents:
    """Hash the columns that are used; every image is decoded once for it.

    Args:
        table: The rows.
        columns: Those that are used, by what they are for.

    Raises:
        ConfigError: An image cannot be decoded; names its row and file.
    """
    return Contents({role: _hashes(table, column) for role, column in columns.items()})


def load_table(source: DataSource, task: str, seed: int) -> Table:
    """Read a table of rows from wherever it is.

    Raises:
        ConfigError: There is nothing at the path, it cannot be read, or it is empty; names task, file and row.
    """
    try:
        table = Table(_read(source), source, task)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ConfigError(
            f"{task}: {source.path}: no such file or folder here, and the hub does not give a dataset of that name "
            f"either ({_first_line(error)})."
        ) from error
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise ConfigError(
            f"{task}: {source.path}: {_broken_row(source) or _first_line(error.__cause__ or error)}"
        ) from error
    if len(table) == 0:
        raise table.error("expected rows, but it is empty.")
    return table.sample(source.rows, seed)


def _hashes(table: Table, column: str) -> list[bytes]:
    if isinstance(table.data.features[column], datasets.Image):
        return [_hash_image(table, column, row) for row in range(len(table))]
    names = table.names(column)
    values = (names[v] if names and isinstance(v, int) and v >= 0 else v for v in table.values(column))
    return [
        hashlib.sha256(json.dumps(_stripped(value), sort_keys=True, default=str).encode()).digest() for value in values
    ]


def _hash_image(table: Table, column: str, row: int) -> bytes:
    stored = table.data.with_format("arrow")[row][column][0].as_py()
    if stored is None:
        raise table.error(f"row {row + 1} has no image in {column!r}.")
    try:
        image = datasets.Image().decode_example(stored)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        place = f" ({stored['path']})" if stored.get("path") else ""
        raise table.error(f"row {row + 1}{place} is not an image that can be read: {_first_line(error)}") from error
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).digest()


def _stripped(value: object) -> object:
    """A value without keys that stand for nothing: `datasets` gives every message the keys of all others."""
    if isinstance(value, dict):
        return {key: _stripped(inner) for key, inner in value.items() if inner is not None}
    return [_stripped(inner) for inner in value] if isinstance(value, list) else value


def _read(source: DataSource) -> datasets.Dataset:
    datasets.disable_progress_bars()
    with _quiet("datasets.packaged_modules"), _quiet("huggingface_hub"):  # our error tells of a broken row, a deaf hub
        return _rows_of(source)


@contextmanager
def _quiet(talker: str) -> Iterator[None]:
    """Keep a logger silent inside the block."""
    logger = logging.getLogger(talker)
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
            raise ValueError("expected a folder of images or a saved datasets directory; it is neither.")
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
            f"there is no split {split!r}; it has {', '.join(map(str, saved))}. Name one of them under split."
        )
    return saved[split]


def _table(loaded: object) -> datasets.Dataset:
    assert isinstance(loaded, datasets.Dataset)  # one split of a dataset that is not streamed
    return loaded


def _broken_row(source: DataSource) -> str | None:
    """Which line of a JSON-lines file is not JSON, if one is not."""
    path = Path(source.path).expanduser()
    if path.suffix not in (".jsonl", ".json") or not path.is_file():
        return None
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            json.loads(line or "{}")
        except ValueError as error:
            return f"row {number} is not JSON ({error}): {line[:80]}"
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
