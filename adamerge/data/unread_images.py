"""Images in the rows of language models, which are refused: rows of images and text cannot be encoded yet."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import nn

from adamerge.data.tables import Table
from adamerge.experts.experts import Expert

_COLUMNS = ("image", "images")
"""Usual names of columns of images; the table's source may name another."""


def check_images(table: Table, expert: Expert, messages: str) -> tuple[str, ...]:
    """Refuse rows whose images a model of texts and images would not see; note a column of images that no model reads.

    Args:
        table: The rows.
        expert: The task's expert, whose main input is text.
        messages: Name of the column of chat messages, which may hold images too.

    Returns:
        Notes for the user.

    Raises:
        ConfigError: Rows hold images; names row, column and, where it is missing, the file.
    """
    found = _first_part(table, messages)
    columns = [name for name in dict.fromkeys([table.source.image, *_COLUMNS]) if name in table.columns]
    if found is None and columns and reads_images(expert.own_module):
        found = _first_image(table, columns[0])
    if found is not None:
        row, column, value = found
        raise table.error(
            f"{table.place(row - 1)} has {_what(value)} in the column {column!r}, but rows of images and text cannot "
            f"be encoded yet, and without its image {expert.kind.architecture} would learn from the text alone. Remove "
            "the column if that is meant, leave out this task's calibration and evaluation, or use rows of tensors."
        )
    if columns and expert.kind.language_model:
        return (f"{table.task}: {table.source.path}: the column {columns[0]!r} of images is not read.",)
    return ()


def reads_images(module: nn.Module) -> bool:
    """Return whether a module reads images beside its main input."""
    return "pixel_values" in inspect.signature(module.forward).parameters


def _first_image(table: Table, column: str) -> tuple[int, str, object] | None:
    """Find the first row that has a value in a column of images, which are not decoded."""
    return next(((row, column, value) for row, value in enumerate(table.values(column), 1) if value), None)


def _first_part(table: Table, messages: str) -> tuple[int, str, object] | None:
    """Find the first part of a message that is not text: its row, column and value."""
    if messages not in table.columns:
        return None
    for row, chat in enumerate(table.values(messages), 1):
        for part in _parts(chat):
            if part.get("type", "text") != "text":
                return row, messages, next((v for k, v in part.items() if k != "type" and v), None)
    return None


def _parts(chat: object) -> Iterator[Mapping[str, object]]:
    for message in chat if isinstance(chat, Sequence) and not isinstance(chat, str) else ():
        content = cast(object, message.get("content")) if isinstance(message, Mapping) else None
        for part in content if isinstance(content, Sequence) and not isinstance(content, str) else ():
            if isinstance(part, Mapping):
                yield cast(Mapping[str, object], part)


def _what(value: object) -> str:
    paths = value if isinstance(value, list) else [value]
    names = [path.get("path") if isinstance(path, Mapping) else path for path in paths]
    missing = [name for name in names if isinstance(name, str) and "://" not in name and not Path(name).exists()]
    return f"an image, whose file {missing[0]} is missing," if missing else "an image"
