"""One task's table of rows; its columns are checked when they are read."""

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
        source: Location of the rows and names of their columns.
        task: The task that they belong to.
    """

    data: datasets.Dataset
    source: DataSource
    task: str

    def __len__(self) -> int:
        return len(self.data)

    def error(self, message: str) -> ConfigError:
        """Make an error about these rows that begins with the names of the task and the file."""
        return ConfigError(f"{self.task}: {self.source.path}: {message}")

    def sample(self, count: int | None, seed: int) -> "Table":
        """Draw `count` rows with the seed and keep their order; None, or more than there are, keeps all rows."""
        if count is None or count >= len(self.data):
            return self
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))
        return replace(self, data=self.data.select(sorted(order[:count].tolist())))

    def require(self, columns: Sequence[str]) -> None:
        """Check that the table has these columns.

        Raises:
            ConfigError: Names the missing column and the existing ones.
        """
        for column in columns:
            if column not in self.data.column_names:
                raise self.error(
                    f"expected a column {column!r}, but the columns are {', '.join(self.data.column_names)}. Name the "
                    "correct one in the task's data settings."
                )

    def values(self, column: str) -> list[object]:
        """Read a column unchanged.

        Raises:
            ConfigError: It is not text in UTF-8.
        """
        try:
            return list(self.data[column])
        except UnicodeDecodeError as error:
            raise self.error(
                f"the column {column!r} is not text in UTF-8 ({error}). Save the file in UTF-8."
            ) from error

    def texts(self, column: str) -> list[str]:
        """Read a column of texts.

        Raises:
            ConfigError: A value is not a text; names its row.
        """
        texts: list[str] = []
        for number, text in enumerate(self.values(column), 1):
            if not isinstance(text, str):
                raise self.error(
                    f"row {number}: expected a text in the column {column!r}, found {text!r}. Correct or remove the "
                    "row."
                )
            texts.append(text)
        return texts

    def with_images(self, column: str) -> "Table":
        """Return the table with a column of images, or of paths of images, that decodes them when it is read.

        Raises:
            ConfigError: The column has another type.
        """
        kind = self.data.features[column]
        long = isinstance(kind, datasets.Value) and kind.dtype == "large_string"  # pandas 3 with datasets 3
        try:
            data = self.data.cast_column(column, datasets.Value("string")) if long else self.data
            return replace(self, data=data.cast_column(column, datasets.Image()))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise self.error(
                f"expected images or paths of images in the column {column!r}, found {kind}. Name the column of images "
                "(key image)."
            ) from error

    def names(self, column: str) -> list[str] | None:
        """Return the class names of a column of class indices, in the order of the indices; None for other columns."""
        kind = self.data.features[column]
        return list(kind.names) if isinstance(kind, datasets.ClassLabel) else None


def load_table(source: DataSource, task: str, seed: int) -> Table:
    """Read a table of rows from a file, a folder or the hub.

    Args:
        source: Location of the rows, names of their columns, and number of rows to draw.
        task: The task that they belong to.
        seed: Random seed of the rows that are drawn.

    Returns:
        The table.

    Raises:
        ConfigError: The path does not exist, cannot be read, or is empty; names task, file and row.
    """
    try:
        table = Table(read_rows(source), source, task)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ConfigError(
            f"{task}: {source.path}: expected a file, a folder or a hub dataset; no file or folder has this path, and "
            f"the hub returned no such dataset ({first_line(error)}). Correct the path."
        ) from error
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise ConfigError(
            f"{task}: {source.path}: {broken_row(source) or first_line(error.__cause__ or error)}"
        ) from error
    if len(table) == 0:
        raise table.error("expected at least 1 row, found none.")
    return table.sample(source.rows, seed)
