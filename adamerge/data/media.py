"""Images, sound and video in the rows of language models: in parts of messages, and in columns of their own."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from torch import nn

from adamerge.data.file_kinds import WORDS, kind_of_file
from adamerge.data.tables import Table
from adamerge.experts.model_kind import forward_arguments

KINDS = ("image", "audio", "video")

_INPUTS = {"image": ("pixel_values",), "audio": ("input_features", "input_values"), "video": ("pixel_values_videos",)}
"""Arguments of a forward pass by what they hold."""


class Medium(NamedTuple):
    """Something in a row that is not text.

    Attributes:
        row: Index of the row.
        column: Its column.
        kind: image, audio, video, or another word.
        value: A path, bytes or an object; None if a message only has a place for it.
    """

    row: int
    column: str
    kind: str
    value: object


def reads(module: nn.Module, kind: str) -> bool:
    """Return whether a module has an argument for images, audio or video."""
    return any(name in forward_arguments(module) for name in _INPUTS.get(kind, ()))


def held_by(argument: str) -> str:
    """Say in brackets what an argument of a forward pass holds; empty if it is not known.

    Example:
        >>> held_by("input_values"), held_by("bbox")
        (' (sound)', '')
    """
    kind = next((kind for kind, names in _INPUTS.items() if argument in names), None)
    return f" ({WORDS[kind]})" if kind else ""


def media_columns(table: Table) -> dict[str, str]:
    """Find the columns that hold images, audio or video: by their type, their usual names, or the names of files."""
    names = {f"{kind}{plural}": kind for kind in KINDS for plural in ("", "s", "_url", "_urls", "_path", "_paths")}
    names |= {table.source.image: "image"}
    usual = {name: kind for name, kind in names.items() if name in table.columns}
    read = {table.source.text, table.source.label, table.source.completion, table.source.messages}
    files = {name: kind for name in table.columns if name not in read if (kind := _kind_of_files(table, name))}
    return {**files, **usual, **table.data.media()}


def media_in_columns(table: Table, columns: Mapping[str, str]) -> Iterator[Medium]:
    """Yield what is in columns of media, row by row; a list holds several."""
    for row in range(len(table)):
        for column, kind in columns.items():
            value = table.value(column, row)
            for one in value if isinstance(value, list) else [value]:
                if one is not None and one != "":
                    yield Medium(row, column, kind, one)


def media_in_chats(table: Table, column: str) -> Iterator[Medium]:
    """Yield the parts of messages that are not text, and media beside a message's text."""
    if column not in table.columns:
        return
    for row, chat in enumerate(table.values(column)):
        for message in chat if isinstance(chat, list) else ():
            if isinstance(message, Mapping):
                yield from (Medium(row, column, *found) for found in _of_message(cast(Mapping[str, object], message)))


def medium_of(part: Mapping[str, object]) -> tuple[str, object] | None:
    """Return kind and value of a part of a message; None if it is text.

    Example:
        >>> medium_of({"type": "image_url", "image_url": {"url": "a.png"}}), medium_of({"image": "a.png"})
        (('image', 'a.png'), ('image', 'a.png'))
        >>> medium_of({"type": "text", "text": "good"}), medium_of({"type": "image"})
        (None, ('image', None))
    """
    word = str(part.get("type") or next((key for key in part if _kind(key)), "text"))
    if word == "text":
        return None
    value = next((value for key, value in part.items() if key not in ("type", "text") and value is not None), None)
    if isinstance(value, Mapping) and "url" in value:
        value = cast(Mapping[str, object], value)["url"]
    return _kind(word) or word, value


def described(value: object) -> str:
    """Describe something that is not text, and say if its file is missing."""
    paths = value if isinstance(value, list) else [value]
    names = [path.get("path") if isinstance(path, Mapping) and not path.get("bytes") else path for path in paths]
    missing = [name for name in names if isinstance(name, str) and _is_path(name) and not Path(name).exists()]
    return "something that is not text" + (f", whose file {missing[0]} is missing," if missing else "")


def _is_path(name: str) -> bool:
    return "://" not in name and not name.startswith("data:")


def _kind(word: str) -> str | None:
    return next((kind for kind in KINDS if kind in word), None)


def _of_message(message: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    content = message.get("content")
    for part in content if isinstance(content, Sequence) and not isinstance(content, str) else ():
        if isinstance(part, Mapping) and (found := medium_of(cast(Mapping[str, object], part))):
            yield found
    for key, value in message.items():
        if key != "content" and (kind := _kind(key)):
            yield from ((kind, one) for one in (value if isinstance(value, list) else [value]) if one)


def _kind_of_files(table: Table, column: str) -> str | None:
    """Return the kind of the files that a column names in its first row that has a value."""
    values = (table.data.glance(column, row) for row in range(len(table)))
    first = next((value for value in values if value), None)
    first = first[0] if isinstance(first, list) and first else first
    if not isinstance(first, str) or len(first) > 4096 or "\n" in first or first.rstrip().endswith("."):
        return None
    return kind_of_file(first)
