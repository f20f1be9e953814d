"""Tables of a report: what a cell shows and is sorted by, and which tables only a page has room for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_MOST_ROWS = 150
"""Rows up to which a table that a page folds is written in Markdown; few models have as many blocks."""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: What is shown.
        value: What it is sorted by; None sorts by the text.
        under: What stands below it in a page, and after it elsewhere.
    """

    text: str
    value: float | None = None
    under: str = ""

    @property
    def line(self) -> str:
        """All of it on one line."""
        return f"{self.text} {self.under}".rstrip()


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        title: What it shows.
        header: Names of the columns.
        rows: Cells by row; the first names the row.
        note: What to know of it.
        folded: Whether a page shows it on demand alone.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False

    @property
    def brief(self) -> bool:
        """Whether it is written where nothing can be folded, as in Markdown; a longer one is named there."""
        return not self.folded or len(self.rows) <= _MOST_ROWS


def number(value: float | None, digits: int = 3, factor: float = 1) -> Cell:
    """Write a number; a dash if there is none.

    Example:
        >>> number(0.5, 1, 100).text, number(-1e-9).text, number(None).text
        ('50.0', '0.000', '–')
    """
    return Cell("–") if value is None else Cell(f"{factor * value:z.{digits}f}", factor * value)
