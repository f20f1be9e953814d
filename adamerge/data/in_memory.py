"""Rows in memory: lists, dictionaries, datasets and tensors."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from adamerge.data.number_columns import as_numbers, number_columns, split_columns
from adamerge.data.records import Arrow, Listed, Records
from adamerge.data.rows import Rows, TensorRows
from adamerge.data.settings import DataSource
from adamerge.data.tables import Table, load_table
from adamerge.data.text_rows import next_tokens
from adamerge.data.token_rows import token_rows
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import classes_by_token
from adamerge.types import ConfigError

RowsLike: TypeAlias = (
    str
    | os.PathLike[str]
    | DataSource
    | Table
    | Rows
    | datasets.Dataset
    | Dataset[object]
    | Tensor
    | Mapping[str, Sequence[object] | Tensor]
    | Sequence[object]
)
"""Every accepted form of rows: see `as_table` and `tensor_rows`."""

Several: TypeAlias = Tensor | Sequence[Tensor]
"""One value per row; apart where their shapes differ."""

IN_MEMORY = DataSource("rows in memory")
"""The default column names, for rows that are not from a file."""

_OF_DATASETS = (datasets.Dataset, datasets.IterableDataset, IterableDataset)
"""Classes of datasets; the rows of all but the first come one by one."""

_EXPECTED = (
    "a path, a list of texts, of dicts or of images, a dict of columns, a datasets.Dataset, or tensors (a tensor, a "
    "dict of tensors, lists or arrays by the model's argument, a list of either, a PyTorch Dataset of either)"
)


def as_table(
    source: RowsLike, task: str, columns: DataSource = IN_MEMORY, seed: int = 0, rows: int | None = None
) -> Table:
    """Convert rows that are not encoded yet to a table.

    Args:
        source: A path, a `DataSource`, a list of texts, of dicts or of images, a dict of columns, or a
            `datasets.Dataset`.
        task: The task that the rows belong to.
        columns: Names of the columns and the number of rows to draw; ignored if `source` is a path or a `DataSource`.
        seed: Random seed of the rows that are drawn.
        rows: Number of rows to draw of those; None keeps them all.

    Returns:
        The table.

    Raises:
        ConfigError: The rows cannot be read, there are none, or they have another type; names the accepted types.

    Example:
        >>> as_table(["good", "bad"], "mood").texts("text")
        ['good', 'bad']
    """
    if isinstance(source, Table):
        return source.sample(rows, seed)
    if isinstance(source, str | os.PathLike):
        source = DataSource(os.fspath(source))
    if isinstance(source, DataSource):
        return load_table(source, task, seed, rows)
    table = Table(_records(source, task), columns, task)
    if len(table) == 0:
        raise table.error("expected at least 1 row, found none.")
    return table.sample(columns.rows, seed).sample(rows, seed)


def holds_tensors(source: RowsLike, main_input: str) -> bool:
    """Return whether rows are encoded already, so that `tensor_rows` accepts them.

    Args:
        source: Rows of any type.
        main_input: The main input of their model; columns of numbers under this name are encoded.

    Example:
        >>> holds_tensors([torch.zeros(3)], "input_ids"), holds_tensors(["good"], "input_ids")
        (True, False)
        >>> holds_tensors({"input_ids": [[5, 6], [7]]}, "input_ids"), holds_tensors({"input": [[5.0]]}, "input_ids")
        (True, False)
    """
    if isinstance(source, Rows | Tensor | Dataset) or number_columns(source, main_input) is not None:
        return True
    if isinstance(source, Mapping):
        return any(isinstance(column, Tensor) for column in source.values())
    if isinstance(source, str) or not isinstance(source, Sequence) or not source:
        return False
    row = source[0]
    parts = row.values() if isinstance(row, Mapping) else row if isinstance(row, tuple) else (row,)
    return any(isinstance(part, Tensor) or _is_array(part) for part in parts)


def _is_array(part: object) -> bool:
    return isinstance(part, np.ndarray) and part.ndim > 0 and part.dtype.kind in "biuf"


def tensor_rows(source: RowsLike, expert: Expert) -> Rows:
    """Convert tensors, which are encoded already, to rows.

    Tensors without names are the model's main input; the second tensor of a tuple (a `TensorDataset`, for example) is
    the label. The keys of a dict are the model's arguments; `labels` is the key of the labels. If the model predicts at
    every position, the positions of `attention_mask` count, or all without a mask. Token ids of several lengths, and
    what has a value for each of them, are padded per batch.

    Args:
        source: A tensor, a dict of tensors, a list of either, or a PyTorch Dataset of either; or lists or arrays of
            numbers by column, in a dict, a list of dicts or a `datasets.Dataset`.
        expert: The task's expert.

    Returns:
        The rows.

    Raises:
        ConfigError: Tensors have different lengths, or the model cannot be run on them.
    """
    if isinstance(source, Rows):
        return source
    columns = _columns(source, expert)
    labels = columns.pop("labels", None)
    counts = {name: len(column) for name, column in columns.items()}
    if not counts or len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise ConfigError(
            f"{expert.name}: expected tensors with one common length of at least 1, found the lengths {counts}. Give "
            "every tensor the same number of rows."
        )
    uneven = [n for n, c in {**columns, "labels": labels}.items() if not isinstance(c, Tensor | None)]
    if uneven:
        if (rows := token_rows(columns, labels, expert)) is not None:
            return rows
        raise _shapes_error(expert, ", ".join(uneven))
    whole = cast(dict[str, Tensor], columns)
    return _whole_rows(whole, cast(Tensor | None, labels), expert)


def _whole_rows(columns: Mapping[str, Tensor], labels: Tensor | None, expert: Expert) -> TensorRows:
    """Make rows of tensors whose first dimension is the row."""
    first = {name: column[:1] for name, column in columns.items()}
    positions = None
    if classes_by_token(expert.module, expert.kind, first, expert.name):
        ids = columns[expert.kind.main_input]
        present = columns.get("attention_mask", torch.ones_like(ids)).bool()
        positions = present if not expert.kind.encoder_decoder else None
        if labels is None and expert.kind.language_model and not expert.kind.encoder_decoder:
            labels = next_tokens(ids, present, present)
    return TensorRows(columns, labels, positions)


def _refuse_streams(source: object, task: str) -> None:
    """Refuse several datasets by split, and rows whose number is unknown, with what to give of them."""
    if isinstance(source, Mapping) and any(isinstance(split, _OF_DATASETS) for split in source.values()):
        names = ", ".join(map(repr, source))
        raise ConfigError(
            f"{task}: expected rows, found a {type(source).__name__} of several datasets ({names}). Give one of them: "
            f"data[{next(iter(source))!r}]."
        )
    if isinstance(source, _OF_DATASETS[1:]):
        take = "data.take(1000)" if isinstance(source, datasets.IterableDataset) else "itertools.islice(data, 1000)"
        raise ConfigError(
            f"{task}: expected rows with a length, found {type(source).__name__}, whose rows come one by one. Take as "
            f"many as are needed: list({take})."
        )


def _records(source: object, task: str) -> Records:
    _refuse_streams(source, task)
    if isinstance(source, datasets.Dataset):
        return Arrow(source)
    if isinstance(source, np.ndarray):
        source = source.tolist()
    if isinstance(source, Mapping) and all(isinstance(column, Sequence | np.ndarray) for column in source.values()):
        return _of_columns({name: list(column) for name, column in source.items()}, task)
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        names = dict.fromkeys(name for row in source for name in row)
        return _listed({name: [row.get(name) for row in source] for name in names})
    for kind, column in ((str, IN_MEMORY.text), (Image.Image, IN_MEMORY.image)):
        if isinstance(source, Sequence) and all(isinstance(row, kind) for row in source):
            return _listed({column: source})
    found = type(source).__name__
    if isinstance(source, Sequence):
        found += " of " + ", ".join(dict.fromkeys(type(row).__name__ for row in source))
    raise ConfigError(f"{task}: expected rows as {_EXPECTED}, found {found}. Convert them to one of these.")


def _of_columns(columns: Mapping[str, Sequence[object]], task: str) -> Listed:
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise ConfigError(
            f"{task}: expected columns of one length, found the lengths {counts}. Give every column the same number of "
            "rows."
        )
    return _listed(columns)


def _listed(columns: Mapping[str, Sequence[object]]) -> Listed:
    return Listed({name: [_plain(value) for value in column] for name, column in columns.items()})


def _plain(value: object) -> object:
    """Return numbers of numpy as those of Python, and tuples as lists; other values are unchanged."""
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _columns(source: object, expert: Expert) -> dict[str, Several]:
    """Collect tensors by the model's argument; the first dimension is the row."""
    if (numbers := number_columns(source, expert.kind.main_input)) is not None:
        used, _ = split_columns(numbers, expert.module)
        return {name: _together([_number(v, expert) for v in numbers[column]]) for name, column in used.items()}
    if isinstance(source, TensorDataset | Tensor):
        return {**_named((source,) if isinstance(source, Tensor) else source.tensors, expert)}
    if isinstance(source, Mapping):
        return {str(name): _tensor(column, expert) for name, column in source.items()}
    _refuse_streams(source, expert.name)
    if isinstance(source, Dataset) and not hasattr(source, "__len__"):
        raise ConfigError(
            f"{expert.name}: expected a PyTorch Dataset with a length, but {type(source).__name__} has no __len__. Add "
            "it, or use a list of its items."
        )
    rows = cast(Sequence[object], source)
    named = [_row(rows[i], expert) for i in range(len(rows))]
    try:
        return {name: _together([row[name] for row in named]) for name in (named[0] if named else ())}
    except KeyError as error:
        raise _shapes_error(expert, str(error)) from error


def _together(values: list[Tensor]) -> Several:
    """Stack tensors; those of several shapes stay apart."""
    return torch.stack(values) if len({value.shape for value in values}) == 1 else values


def _shapes_error(expert: Expert, what: str) -> ConfigError:
    return ConfigError(
        f"{expert.name}: expected rows of tensors with the same names and shapes, but they differ ({what}). Pad them "
        "to one length, with an attention_mask, or use texts."
    )


def _row(row: object, expert: Expert) -> dict[str, Tensor]:
    if isinstance(row, Mapping):
        return {str(name): _tensor(value, expert) for name, value in row.items()}
    return _named(row if isinstance(row, tuple | list) else (row,), expert)


def _named(parts: Sequence[object], expert: Expert) -> dict[str, Tensor]:
    """Name the parts of a row without names: the main input and the label."""
    if len(parts) > 2 or not parts:
        raise ConfigError(
            f"{expert.name}: expected rows of an input, or of an input and a label, found a row of {len(parts)} "
            "tensors. Use dicts whose keys are the model's arguments."
        )
    names = (expert.kind.main_input, "labels")
    return {name: _tensor(part, expert) for name, part in zip(names, parts, strict=False)}


def _number(value: object, expert: Expert) -> Tensor:
    return _tensor(value, expert, as_numbers)


def _tensor(value: object, expert: Expert, convert: Callable[[object], Tensor] = torch.as_tensor) -> Tensor:
    try:
        return as_numbers(value) if isinstance(value, np.ndarray) else convert(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{expert.name}: expected rows of tensors, found {value!r:.80} ({type(value).__name__}) in one. Give "
            "texts and images as a list of them, or as a list of dicts, one per row."
        ) from error
