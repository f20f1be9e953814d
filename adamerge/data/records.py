"""Rows as they were read: columns of Python values, or an Arrow table."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import datasets
import pyarrow as pa
from datasets.features.features import require_decoding
from typing_extensions import override

_MEDIA = tuple(getattr(datasets, name) for name in ("Image", "Audio", "Video") if hasattr(datasets, name))

_FIRST = 32
"""Number of rows that are opened at once: of each column some values are looked at."""


class Records(ABC):
    """Rows with named columns. Values are those that the source contains: no type is inferred, nothing is decoded."""

    @property
    @abstractmethod
    def columns(self) -> Sequence[str]:
        """The names of the columns."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def values(self, column: str) -> Sequence[object]:
        """Return the values of a column; images stay paths, or dicts of path and bytes."""

    def placed(self, column: str) -> Iterator[tuple[str, object]]:
        """Yield place and value of every row of a column."""
        yield from ((self.place(row), value) for row, value in enumerate(self.values(column)))

    @abstractmethod
    def value(self, column: str, row: int) -> object:
        """Return one value of a column."""

    def glance(self, column: str, row: int) -> object:
        """Return one value of a column that may not be needed: None if it cannot be read.

        Text in another encoding than UTF-8 is returned, with marks in place of what is none.
        """
        try:
            return self.value(column, row)
        except UnicodeDecodeError as error:
            return error.object.decode(errors="replace")
        except Exception:  # pyarrow raises anything on values that Python does not have
            return None

    def type_of(self, column: str) -> str:
        """Return the name of a column's type; empty if the source has no types."""
        del column
        return ""

    @abstractmethod
    def class_names(self, column: str) -> Sequence[str] | None:
        """Return the names of a column's classes in their order, if it has them; its values are names or indices."""

    def is_json(self, column: str) -> bool:
        """Return whether `datasets` gave a column the type Json, under which texts that are JSON are rewritten."""
        del column
        return False

    def media(self) -> Mapping[str, str]:
        """Return image, audio or video by name of a column whose type says that it holds such."""
        return {}

    @abstractmethod
    def select(self, rows: Sequence[int]) -> "Records":
        """Return some of the rows, with their places."""

    @abstractmethod
    def place(self, row: int) -> str:
        """Return where a row is, for messages: its number in the source, and its line or file if it has one."""


@dataclass(frozen=True, eq=False)
class Listed(Records):
    """Rows whose values are in memory.

    Args:
        data: Values by column, all of one length.
        places: Where each row is; by default its number.
        classes: Names of classes by column.
    """

    data: Mapping[str, Sequence[object]]
    places: Sequence[str] | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @property
    @override
    def columns(self) -> Sequence[str]:
        return list(self.data)

    @override
    def __len__(self) -> int:
        return len(next(iter(self.data.values()), ()))

    @override
    def values(self, column: str) -> Sequence[object]:
        return self.data[column]

    @override
    def value(self, column: str, row: int) -> object:
        return self.data[column][row]

    @override
    def class_names(self, column: str) -> Sequence[str] | None:
        return self.classes.get(column)

    @override
    def select(self, rows: Sequence[int]) -> "Listed":
        data = {name: [values[row] for row in rows] for name, values in self.data.items()}
        return Listed(data, [self.place(row) for row in rows], self.classes)

    @override
    def place(self, row: int) -> str:
        return self.places[row] if self.places is not None else f"row {row + 1}"


@dataclass(frozen=True, eq=False)
class Arrow(Records):
    """Rows of a `datasets.Dataset`.

    Args:
        data: The rows.
        numbers: Number of each row in the source, from 0; by default all rows in order.
    """

    data: datasets.Dataset
    numbers: Sequence[int] | None = None

    @property
    @override
    def columns(self) -> Sequence[str]:
        return self.data.column_names

    @override
    def __len__(self) -> int:
        return len(self.data)

    @override
    def values(self, column: str) -> Sequence[object]:
        if column in self.media():
            return [self.value(column, row) for row in range(len(self))]
        return list(self._plain[column])

    @override
    def value(self, column: str, row: int) -> object:
        own = self.data.format["type"] == "custom" or require_decoding(self.data.features[column])
        if own and column not in self.media():  # a transform may need all columns
            return self._plain[row][column]
        found = self._first[column][row] if row < _FIRST else self._stored[row][column][0]
        return found.as_py()  # without the values beside it, which may be unreadable

    @cached_property
    def _first(self) -> pa.Table:
        return self._stored[:_FIRST]

    @override
    def type_of(self, column: str) -> str:
        return str(self.data.data.schema.field(column).type)

    @cached_property
    def _stored(self) -> datasets.Dataset:
        """The rows as they are stored: nothing is decoded."""
        return self.data.with_format("arrow")

    @cached_property
    def _plain(self) -> datasets.Dataset:
        """The rows as Python values; a transform that the user set is kept."""
        return self.data if self.data.format["type"] == "custom" else self.data.with_format(None)

    @override
    def class_names(self, column: str) -> Sequence[str] | None:
        kind = self.data.features[column]
        return list(kind.names) if isinstance(kind, datasets.ClassLabel) else None

    @override
    def is_json(self, column: str) -> bool:
        return type(self.data.features[column]).__name__ == "Json"

    @override
    def media(self) -> Mapping[str, str]:
        return self._media

    @cached_property
    def _media(self) -> Mapping[str, str]:
        inner = {name: getattr(kind, "feature", kind) for name, kind in self.data.features.items()}
        return {name: type(kind).__name__.lower() for name, kind in inner.items() if isinstance(kind, _MEDIA)}

    @override
    def select(self, rows: Sequence[int]) -> "Arrow":
        numbers = rows if self.numbers is None else [self.numbers[row] for row in rows]
        return Arrow(self.data.select(rows), numbers)

    @override
    def place(self, row: int) -> str:
        return f"row {(row if self.numbers is None else self.numbers[row]) + 1}"
