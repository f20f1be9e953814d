"""One record of a table file before it is parsed."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

Row: TypeAlias = dict[str, object]
"""Values by column."""


class Record(NamedTuple):
    """One record of a table file.

    Attributes:
        line: Line on which it begins, from 1.
        parse: Returns its row; raises a ValueError whose message follows the record's place.
    """

    line: int
    parse: Callable[[], Row]
