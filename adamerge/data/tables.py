"""One task's table of rows; its columns are checked when they are read."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import datasets
import torch
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import HFValidationError
from PIL import Image

from adamerge.data.base64_images import decoded
from adamerge.data.read_files import first_line, open_rows
from adamerge.data.records import Records
from adamerge.data.sample_scale import decode
from adamerge.data.settings import DataSource
from adamerge.data.split_folders import InDoubt
from adamerge.data.table_files import Column
from adamerge.data.unreadable import unreadable
from adamerge.data.words import advice, columns_meant, joined, place_hint, separator_hint, shown_name
from adamerge.storage.regular_files import problem_of
from adamerge.types import ConfigError, Fact, placed, quoted

TEXT_ROLES = ("text", "text_pair", "completion")
"""Roles of columns whose values are texts."""


@dataclass(frozen=True, eq=False)
class Table:
    """One task's rows as they were read.

    Attributes:
        data: The rows.
        source: Location of the rows and names of their columns.
        task: The task that they belong to.
        count: Number of rows in the source; None for rows in memory.
        notes: Messages for the user on how the source was read.
        column: Reads one column of all rows of the source, drawn or not; by default of these rows.
        doubt: Folders of images of which it is in doubt whether they are splits or classes.
    """

    data: Records
    source: DataSource
    task: str
    count: int | None = None
    notes: tuple[str, ...] = ()
    column: Column | None = None
    doubt: InDoubt | None = None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        return self.data.columns

    def error(self, message: str) -> ConfigError:
        """Make an error about these rows that begins with the names of the task and the file."""
        return ConfigError(f"{self.task}: {self.source.path}: {message}")

    def place(self, row: int) -> str:
        """Return where a row is in the source, for messages, such as "row 3 (line 4)"."""
        return self.data.place(row)

    def sample(self, count: int | None, seed: int) -> "Table":
        """Draw `count` rows with the seed and keep their order; None, or more than there are, keeps all rows."""
        chosen = draw(len(self), (count,), seed)
        if len(chosen) == len(self):
            return self
        return replace(self, data=self.data.select(chosen), column=self.column or self.data.placed)

    def whole(self, column: str) -> Iterator[tuple[str, object]]:
        """Yield place and value of a column in all rows of the source, also of those that are not drawn."""
        with self._reading(column):
            yield from (self.column or self.data.placed)(column)

    def require(self, columns: Sequence[str]) -> None:
        """Check that the table has these columns.

        Raises:
            ConfigError: Names the missing column and the existing ones.
        """
        for column in columns:
            if column not in self.columns:
                hint = separator_hint(self.columns)
                meant = columns_meant(self.data) if column == self.source.text and not hint else ""
                shown = ", ".join(map(shown_name, self.columns[:8]))
                more = ", …" if len(self.columns) > 8 else ""
                raise self.error(
                    f"expected a column {column!r}, but the columns are {shown}{more}. Name the correct one in the "
                    f"task's data settings.{meant}{hint}{''.join(f' ({n})' for n in self.notes)}"
                )

    def values(self, column: str) -> list[object]:
        """Read a column unchanged; raises ConfigError if it cannot be read."""
        with self._reading(column):
            return list(self.data.values(column))

    def value(self, column: str, row: int) -> object:
        """Read one value of a column unchanged; raises ConfigError if it cannot be read."""
        with self._reading(column):
            return self.data.value(column, row)

    @contextmanager
    def _reading(self, column: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # pyarrow and datasets raise anything on damaged files
            raise self.error(unreadable(self.data, column, error)) from error

    def texts(self, column: str) -> list[str]:
        """Read a column of texts; lists of words, if all values are such, are joined by spaces.

        Raises:
            ConfigError: A value is not a text; names its row.
        """
        self.check_kept(column)
        texts: list[str] = []
        for row, text in enumerate(self._texts(column)):
            if not isinstance(text, str):
                raise self.error(
                    f"{self.place(row)}: expected a text in the column {column!r}, found {quoted(text)}. "
                    f"{advice(text, column)}"
                )
            texts.append(text)
        return texts

    def _texts(self, column: str) -> list[object]:
        values = self.values(column)
        return joined(values) or values

    def check_kept(self, column: str) -> None:
        """Refuse a column whose texts `datasets` may have rewritten when it made the rows.

        Raises:
            ConfigError: The column has the type Json, and holds more than lists and objects.
        """
        if self.data.is_json(column) and not all(isinstance(value, list | dict) for value in self.values(column)):
            raise self.error(
                f"the column {column!r} has the type Json, in which datasets rewrites texts that are JSON ('007' "
                "becomes 7, 'true' True). Make the column text before saving it, or give the files from which it was "
                "made (JSON lines, CSV), which are read as they are."
            )

    def image(self, column: str, row: int) -> Image.Image:
        """Decode one image, from a path, bytes or an image in memory.

        Raises:
            ConfigError: The value is no image, or cannot be decoded; names its row.
        """
        stored = self.stored_image(column, row)
        with self.decoding(row, stored):
            return decode(stored)

    @contextmanager
    def decoding(self, row: int, stored: Mapping[str, object]) -> Iterator[None]:
        """Refuse in the block an image that is too large or that Pillow cannot read, whatever it raises.

        Args:
            row: Row of the image.
            stored: The image as `stored_image` returns it.

        Raises:
            ConfigError: Names row and file.
        """
        place, limit = f"{self.place(row)}{_file(stored, self.place(row))}", self.source.max_pixels
        problem = problem_of(Path(str(stored["path"]))) if stored.get("bytes") is None else None
        if problem is not None:
            hint = place_hint(str(stored["path"]), self.source.path)
            raise self.error(f"{place} is not an image that can be read: {problem}{hint}")
        former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                yield
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise self.error(
                f"{place}: expected an image of at most {limit} pixels, found more. Reduce it, or raise max_pixels of "
                "these rows."
            ) from error
        except ConfigError:
            raise
        except Exception as error:  # Pillow raises anything on damaged files
            raise self.error(
                f"{place} is not an image that can be read ({first_line(error)}). Replace the file or remove the row."
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = former

    def stored_image(self, column: str, row: int) -> dict[str, object]:
        """Return an image as it is stored: its path, and its bytes or None.

        Raises:
            ConfigError: The value is no image; names its row.
        """
        value = decoded(self.value(column, row))
        if value is None or value == "":
            raise self.error(f"{self.place(row)} has no image in {column!r}. Add the image or remove the row.")
        try:
            return cast(dict[str, object], datasets.Image().encode_example(value))  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise self.error(
                f"{self.place(row)}: expected images or paths of images in the column {column!r}, found "
                f"{quoted(value)}. Name the column of images (key image)."
            ) from error

    def class_names(self, column: str) -> list[str] | None:
        """Return the names of a column's classes in their order, if it has them; its values are names or indices."""
        names = self.data.class_names(column)
        return None if names is None else list(names)

    def reading_notes(self, columns: Mapping[str, str]) -> tuple[str, ...]:
        """List how the source was read and how many of the used texts are empty.

        Args:
            columns: Names of the used columns by role.
        """
        notes = list(self.notes)
        for column in (columns[role] for role in TEXT_ROLES if role in columns):
            if joined(self.values(column)) is not None:
                notes.append(f"the column {column!r} holds lists of words, which are joined by spaces.")
            empty = [row for row, text in enumerate(self._texts(column)) if isinstance(text, str) and not text.strip()]
            if empty:
                notes.append(
                    f"{len(empty)} of {len(self)} texts in the column {column!r} are empty, the first one in "
                    f"{self.place(empty[0])}."
                )
        place = f"{self.task}: {self.source.path}"
        drawn = "" if self.count == len(self) else f"{len(self)} of "
        facts = () if self.count is None else (Fact(f"{place}: {drawn}{self.count} rows."),)
        return (*facts, *(placed(place, note) for note in notes))


def load_table(source: DataSource, task: str, seed: int, rows: int | None = None) -> Table:
    """Read a table of rows from a file, a folder or the hub.

    All rows are counted and checked; only those that are drawn are kept.

    Args:
        source: Location of the rows, names of their columns, and number of rows to draw.
        task: The task that they belong to.
        seed: Random seed of the rows that are drawn.
        rows: Number of rows to draw of those; None keeps them all.

    Returns:
        The table.

    Raises:
        ConfigError: The path does not exist, cannot be read, or is empty; names task, file and row.
    """
    try:
        unread = open_rows(source)
        chosen = draw(unread.count, (source.rows, rows), seed)
        table = Table(unread.read(chosen), source, task, unread.count, unread.notes, unread.column, unread.doubt)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError, HFValidationError) as error:
        raise ConfigError(
            f"{task}: {source.path}: expected a file, a folder or a hub dataset; no file or folder has this path, and "
            f"the hub returned no such dataset ({first_line(error)}). Correct the path."
        ) from error
    except (DatasetGenerationError, ValueError, OSError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
        raise ConfigError(f"{task}: {source.path}: {first_line(cause or error)}") from error
    except Exception as error:  # pyarrow and datasets raise anything on damaged files
        what = f"cannot be read ({type(error).__name__}: {first_line(error)})"
        raise ConfigError(f"{task}: {source.path}: {what}. Copy it again, or correct the path.") from error
    if len(table) == 0:
        raise table.error("expected at least 1 row, found none.")
    return table


def draw(count: int, limits: Sequence[int | None], seed: int) -> Sequence[int]:
    """Draw indices with the seed and keep their order, once per limit.

    Args:
        count: Number of rows.
        limits: Number to draw of the rows drawn so far; None, or more than there are, keeps all.
        seed: Random seed.

    Example:
        >>> draw(4, (None, 9), seed=0), len(draw(4, (3, 2), seed=0))
        (range(0, 4), 2)
    """
    chosen: Sequence[int] = range(count)
    for limit in limits:
        if limit is not None and limit < len(chosen):
            order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
            chosen = [chosen[place] for place in sorted(order[:limit].tolist())]
    return chosen


def _file(stored: Mapping[str, object], place: str) -> str:
    path = str(stored.get("path") or "")
    return f" ({path[:200]})" if path and Path(path).name not in place else ""
