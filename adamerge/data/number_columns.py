"""Rows in memory that are encoded already, as numbers: columns of lists, of arrays, of a `datasets.Dataset`."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import names_argument, takes

Columns: TypeAlias = Mapping[str, Sequence[object]]

LABELS = "labels"

_LABELS = (LABELS, "label", "label_ids")
"""Names of labels, as transformers' collators read them."""

_NOT_ENCODED = {"text", "image", "messages", "conversations"}
"""Columns that are encoded here: what else the rows have belongs to an earlier encoding."""


def number_columns(source: object, main_input: str) -> Columns | None:
    """Return the columns of rows that are encoded already.

    Args:
        source: Rows of any type.
        main_input: The model's main input, of which the rows must have numbers.

    Returns:
        Values by column; None if the rows are of another type, or are to be encoded.

    Example:
        >>> number_columns([{"input_ids": [5, 6]}, {"input_ids": [7]}], "input_ids")
        {'input_ids': [[5, 6], [7]]}
        >>> number_columns({"text": ["good"], "input_ids": [[5, 6]]}, "input_ids")
    """
    columns = _columns(source, main_input)
    values = columns.get(main_input, ())
    if _NOT_ENCODED & columns.keys() or not len(values) or not _is_numeric(values[0]):
        return None
    return columns


def _columns(source: object, main_input: str) -> Columns:
    if isinstance(source, datasets.Dataset):
        return _of_dataset(source, main_input)
    if isinstance(source, Mapping):
        return cast(Columns, source) if all(isinstance(c, Sequence | np.ndarray) for c in source.values()) else {}
    if isinstance(source, np.ndarray):
        return {main_input: cast(Sequence[object], source)} if source.ndim > 1 else {}
    if isinstance(source, str) or not isinstance(source, Sequence) or not source:
        return {}
    if all(isinstance(row, Mapping) for row in source):
        names = dict.fromkeys(name for row in source for name in row)
        return {name: [row.get(name) for row in source] for name in names}
    return {main_input: source} if all(isinstance(row, list | np.ndarray) for row in source) else {}


def _of_dataset(source: datasets.Dataset, main_input: str) -> Columns:
    """Read a dataset; a transform that the user set makes the rows, and decides what they have."""
    if source.format["type"] == "custom" and len(source):
        return _columns([source[i] for i in range(len(source))], main_input)
    shown = source.format["columns"]
    return {name: source.with_format(None)[name][:] for name in shown} if main_input in shown else {}


def _is_numeric(value: object) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf"
    return isinstance(value, int | float | Tensor) or value == []


def split_columns(columns: Columns, module: nn.Module) -> tuple[dict[str, str], list[str]]:
    """Decide which columns are read.

    Args:
        columns: Values by column.
        module: The model.

    Returns:
        Columns by the argument that they are, or "labels"; and the columns that are not read.
    """
    known = names_argument if isinstance(module, PreTrainedModel) else takes
    label = next((name for name in _LABELS if name in columns), None)
    used = {name: name for name in columns if name != label and known(module, name)}
    used |= {LABELS: label} if label else {}
    return used, [name for name in columns if name not in used.values()]


def unread_columns(source: object, expert: Expert) -> tuple[str, ...]:
    """Note the columns of encoded rows that are no arguments of the model."""
    columns = number_columns(source, expert.kind.main_input)
    _, unread = split_columns(columns, expert.module) if columns else ({}, [])
    if not unread:
        return ()
    why = f"{expert.kind.architecture} has no such arguments"
    return (f"{expert.name}: {', '.join(unread)} of the encoded rows are not read: {why}.",)


def as_numbers(value: object) -> Tensor:
    """Convert lists, arrays and numbers to a tensor, as PyTorch's data loaders do: fp32 or int64.

    Example:
        >>> as_numbers(np.ones(2)).dtype, as_numbers(np.ones(2, "int32")).dtype
        (torch.float32, torch.int64)
    """
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray | Tensor):
        value = np.stack([np.asarray(inner) for inner in value])
    found = torch.as_tensor(value)
    return found.float() if found.is_floating_point() else found if found.dtype == torch.bool else found.long()
