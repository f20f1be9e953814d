"""Columns of texts that no key names, such as the second text of a pair, which would be dropped silently."""

from collections.abc import Mapping

from adamerge.data.tables import Table
from adamerge.experts.name_patterns import several

_SEEN = 20
"""Rows that are looked at."""


def unread_texts(table: Table, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Note the columns whose values are mostly texts of several words and that are neither read nor named by a key.

    Args:
        table: The rows.
        columns: Names of the used columns by role.

    Returns:
        The note, if there are such columns in rows of texts or chats.
    """
    if not {"text", "messages"} & columns.keys():
        return ()
    known = {*columns.values(), *(value for value in vars(table.source).values() if isinstance(value, str))}
    found = [repr(column) for column in table.columns if column not in known and _holds_texts(table, column)]
    if not found:
        return ()
    place, names = f"{table.task}: {table.source.path}", several(found)
    return (f"{place}: texts in {names} are not read; the keys text_pair and completion name further texts.",)


def _holds_texts(table: Table, column: str) -> bool:
    rows = range(min(len(table), _SEEN))
    return 2 * sum(_is_text(table.data.value(column, row)) for row in rows) > len(rows)


def _is_text(value: object) -> bool:
    """Return whether a value is a text, rather than an identifier, an address or a word for a class."""
    return isinstance(value, str) and (len(value.split()) > 1 or not value.isascii())
