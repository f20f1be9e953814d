"""One task's table of rows: its columns, checked when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import datasets
import torch
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from adamerge.data.read_files import broken_row, first_line, read_rows
from adamerge.data.settings import DataSource
from adamerge.types import ConfigError


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


def load_table(source: DataSource, task: str, seed: int) -> Table:
    """Read a table of rows from wherever it is.

    Raises:
        ConfigError: There is nothing at the path, it cannot be read, or it is empty; names task, file and row.
    """
    try:
        table = Table(read_rows(source), source, task)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ConfigError(
            f"{task}: {source.path}: no such file or folder here, and the hub does not give a dataset of that name "
            f"either ({first_line(error)})."
        ) from error
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise ConfigError(
            f"{task}: {source.path}: {broken_row(source) or first_line(error.__cause__ or error)}"
        ) from error
    if len(table) == 0:
        raise table.error("expected rows, but it is empty.")
    return table.sample(source.rows, seed)
