"""Rows of token ids in memory that have several lengths: padded per batch, as texts' tokens are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.data.input_columns import InputColumn
from adamerge.data.rows import Padded, Rows
from adamerge.data.text_rows import NO_LABEL, next_tokens
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import classes_by_token
from adamerge.types import ConfigError

IDS, MASK = "input_ids", "attention_mask"


class TokenRows(Rows):
    """Rows of token ids with a mask, of several lengths.

    Args:
        inputs: Inputs of the model by argument.
        labels: One label per row or per token, or None.
        expert: The task's expert.
    """

    def __init__(self, inputs: Mapping[str, InputColumn], labels: InputColumn | None, expert: Expert) -> None:
        self._inputs, self._labels, self._kind = dict(inputs), labels, expert.kind
        self._per_token = False
        first = self.padded([0]).inputs
        self._per_token = classes_by_token(expert.module, expert.kind, first, expert.name)

    def __len__(self) -> int:
        return len(self._inputs[IDS].values)

    @override
    def length(self, index: int) -> tuple[int, ...]:
        return (len(self._inputs[IDS].values[index]),)

    @override
    def padded(self, indices: Sequence[int]) -> Padded:
        inputs = {name: column.padded(indices, self.padding) for name, column in self._inputs.items()}
        labels = None if self._labels is None else self._labels.padded(indices, self.padding)
        if not self._per_token or self._kind.encoder_decoder:
            return Padded(inputs, None, labels)
        present = inputs[MASK].bool()
        if labels is None and self._kind.language_model:
            labels = next_tokens(inputs[IDS], present, present)
        return Padded(inputs, present, labels)


def token_rows(
    columns: Mapping[str, Sequence[Tensor] | Tensor], labels: Sequence[Tensor] | Tensor | None, expert: Expert
) -> TokenRows | None:
    """Make rows of tensors of several lengths, where they are token ids and what belongs to each.

    Args:
        columns: Tensors per row, by the model's argument.
        labels: One per row or per token.
        expert: The task's expert.

    Returns:
        The rows; None if their model does not read token ids, or something else than a value per token differs in
        shape.

    Raises:
        ConfigError: A row has no token; names it.
    """
    ids = columns.get(IDS)
    every = [*columns.values(), *([] if labels is None else [labels])]
    if ids is None or not all(isinstance(values, Tensor) or _aligned(values, ids) for values in every):
        return None
    if empty := next((i for i, row in enumerate(ids, start=1) if not len(row)), None):
        raise ConfigError(f"{expert.name}: row {empty}: expected at least one token in {IDS}, found none. Remove it.")
    config = getattr(expert.own_module, "config", None)
    token = getattr(getattr(config, "text_config", config), "pad_token_id", None)
    whole = {MASK: [torch.ones_like(row) for row in ids], **columns}
    inputs = {name: _column(values, (token or 0) if name == IDS else 0) for name, values in whole.items()}
    return TokenRows(inputs, None if labels is None else _column(labels, NO_LABEL), expert)


def _aligned(values: Sequence[Tensor], ids: Sequence[Tensor] | Tensor) -> bool:
    """Return whether there is a value per token."""
    return all(value.ndim and len(value) == len(row) for value, row in zip(values, ids, strict=True))


def _column(values: Sequence[Tensor] | Tensor, filler: int) -> InputColumn:
    return InputColumn(list(values), not isinstance(values, Tensor), filler)
