"""Images, sound and video in the rows of language models, which are refused: they cannot be encoded beside text yet."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import nn

from adamerge.data.tables import Table
from adamerge.experts.experts import Expert

_INPUTS = {"image": ("pixel_values",), "audio": ("input_features", "input_values"), "video": ("pixel_values_videos",)}
"""Arguments of a forward pass by what they hold."""


def check_images(table: Table, expert: Expert, messages: str) -> tuple[str, ...]:
    """Refuse rows whose images a model of texts and images would not get; note a column of images that no model reads.

    Args:
        table: The rows.
        expert: The task's expert, whose main input is text.
        messages: Name of the column of chat messages, which may hold images too.

    Returns:
        Notes for the user.

    Raises:
        ConfigError: Rows hold images; names row, column and, where it is missing, the file.
    """
    columns = _columns(table)
    read = [column for column, kind in columns.items() if reads(expert.own_module, kind)]
    found = _first_part(table, messages) or next((one for column in read if (one := _first(table, column))), None)
    if found is not None:
        row, column, value = found
        raise table.error(
            f"{table.place(row - 1)} has {_what(value)} in the column {column!r}, but rows of images, sound or video "
            f"beside text cannot be encoded yet, and {expert.kind.architecture} would learn from the text alone. "
            "Remove the column if that is meant, leave out this task's calibration and evaluation, or use rows "
            "of tensors."
        )
    ignored = ", ".join(repr(column) for column in columns if column not in read)
    if ignored and expert.kind.language_model:
        return (f"{table.task}: {table.source.path}: {expert.kind.architecture} does not read the column {ignored}.",)
    return ()


def reads(module: nn.Module, kind: str) -> bool:
    """Return whether a module has an argument for images, audio or video."""
    return any(name in inspect.signature(module.forward).parameters for name in _INPUTS[kind])


def _columns(table: Table) -> dict[str, str]:
    """Find the columns that hold images, audio or video, by their type or their usual names."""
    names = {f"{kind}{plural}": kind for kind in _INPUTS for plural in ("", "s")} | {table.source.image: "image"}
    return {name: kind for name, kind in names.items() if name in table.columns} | dict(table.data.media())


def _first(table: Table, column: str) -> tuple[int, str, object] | None:
    """Find the first row that has a value in a column, which is not decoded."""
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
    names = [path.get("path") if isinstance(path, Mapping) and not path.get("bytes") else path for path in paths]
    missing = [name for name in names if isinstance(name, str) and "://" not in name and not Path(name).exists()]
    return "something that is not text" + (f", whose file {missing[0]} is missing," if missing else "")
