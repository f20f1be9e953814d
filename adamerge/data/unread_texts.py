"""Columns of texts and chats that are not read, whether a key names them or not, which would be dropped silently."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import cast

from adamerge.data.media import media_columns
from adamerge.data.settings import DataSource
from adamerge.data.tables import Table
from adamerge.data.words import is_chat
from adamerge.experts.model_kind import ModelKind
from adamerge.experts.name_patterns import several
from adamerge.types import quoted

_SEEN = 20
"""Rows that are looked at."""

_KEYS = ("text", "text_pair", "messages", "completion", "image")
"""Keys that name columns; of the label other notes speak."""


def unread_texts(
    table: Table, columns: Mapping[str, str], kind: ModelKind, told: Collection[str] = ()
) -> tuple[str, ...]:
    """Note columns that a key names in vain, and those whose values are mostly texts of several words, or chats.

    Args:
        table: The rows.
        columns: Names of the used columns by role.
        kind: The kind of their model.
        told: Columns that are read otherwise, or that other notes speak of.

    Returns:
        The notes, if there are such columns.
    """
    place, read = f"{table.task}: {table.source.path}", [quoted(name) for name in columns.values()]
    vain = {key: name for key, name in _named(table.source) if name not in {*columns.values(), *told}}
    notes = [
        f"{place}: the key {key} names the column {quoted(name)}, but of these rows {kind.architecture} reads "
        f"{several(read)} alone."
        for key, name in vain.items()
    ]
    known = {*columns.values(), *vain.values(), *told, *media_columns(table)}
    found = [column for column in table.columns if column not in known and _mostly_texts(table, column)]
    if found:
        names = several(list(map(quoted, found)), 12)
        notes.append(f"{place}: texts in {names} are not read{_advice(columns, found, kind)}.")
    return tuple(notes)


def _named(source: DataSource) -> Iterator[tuple[str, str]]:
    """Yield the keys that name another column than they do by default."""
    usual = {field.name: field.default for field in fields(DataSource)}
    for key in _KEYS:
        name = cast(str | None, getattr(source, key))
        if name is not None and name != usual[key]:
            yield key, name


def _advice(columns: Mapping[str, str], found: Sequence[str], kind: ModelKind) -> str:
    """Say how texts of these columns can be read."""
    if "messages" in columns:
        system = next((quoted(name) for name in found if "system" in name.lower()), None)
        first = f"; write {system} as the first message of each chat, with the role system" if system else ""
        return f", but for the chats in {quoted(columns['messages'])} (key messages){first}"
    if "text" not in columns:
        return ""
    key, what = ("completion", "what follows the text") if kind.language_model else ("text_pair", "a second text")
    return "" if key in columns else f"; the key {key} names the column of {what}"


def _mostly_texts(table: Table, column: str) -> bool:
    rows = range(min(len(table), _SEEN))
    return 2 * sum(_holds_text(table.data.glance(column, row)) for row in rows) > len(rows)


def _holds_text(value: object) -> bool:
    """Return whether a value is or holds a text, rather than identifiers, addresses and words for classes."""
    if isinstance(value, str):
        return len(value.split()) > 1 or not value.isascii()
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return is_chat(value) or any(map(_holds_text, inner))
