"""Batches of rows of one task, a model's outputs on a batch, and masks of counted positions."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Form: TypeAlias = Literal["classes", "labels", "numbers", "vectors", "spans"]
"""What a model predicts: one of several classes, each of several labels by itself, numbers, a vector of the row, or the
start and the end of a span of its text."""

NEVER = -1e4
"""Logit of what is left out; finite, so that its gradient is 0 and not undefined."""


class Batch(NamedTuple):
    """Some rows of one task.

    Attributes:
        inputs: Keyword arguments of the task's module.
        rows: Indices of the rows in the task's data, int64, (B,).
        positions: Mask of counted positions, bool, (B, S); None if the model makes one prediction per row.
        labels: (B,), or (B, S) with -100 at positions without label; None if the rows have no labels.
    """

    inputs: Mapping[str, Tensor]
    rows: Tensor
    positions: Tensor | None = None
    labels: Tensor | None = None


class Outputs(NamedTuple):
    """Outputs of a task's model on a batch.

    Attributes:
        logits: (B, C), or (B, S, C) if the model predicts at every position. With `top`, log-probabilities of these
            tokens, and of all other tokens together, (…, k + 1).
        hidden: Requested hidden states, each (B, S, D).
        top: Indices of the most likely tokens, int64, (…, k), if only these were stored.
        encoded: Per hidden state, whether it comes from the encoder of an encoder-decoder.
        form: What the logits are: of numbers the numbers themselves, (…, D); of vectors the vectors, (B, D); of spans
            the logits of start and end over the row's tokens, (B, 2, S).
        spread: Of stored numbers and vectors their variance over the rows, (D,) or (1,).
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    top: Tensor | None = None
    encoded: tuple[bool, ...] = ()
    form: Form = "classes"
    spread: Tensor | None = None


def mean_where(values: Tensor, positions: Tensor | None) -> Tensor:
    """Compute the mean of values (B,) or (B, S) over all of them, or over the positions (B, S) that are true.

    Args:
        values: (B,) or (B, S).
        positions: Mask of counted positions, bool, (B, S); None, or values (B,), count all.

    Example:
        >>> mean_where(torch.tensor([[1.0, 9.0]]), torch.tensor([[True, False]])).item()
        1.0
    """
    if positions is None or values.ndim < 2:
        return values.mean()
    counts = positions.to(values.dtype)
    return (values * counts).sum() / counts.sum().clamp_min(1)


def widened(values: Tensor) -> Tensor:
    """Convert numbers of 16 bits or fewer to fp32, in which losses are computed; others are unchanged.

    Example:
        >>> widened(torch.ones(1, dtype=torch.bfloat16)).dtype, widened(torch.ones(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return values.float() if values.itemsize < 4 else values


def unpadded(logits: Tensor) -> Tensor:
    """Drop what is left out of a row's logits, (…, S) of a span; those of a row, (C,), are unchanged.

    Example:
        >>> unpadded(torch.tensor([[1.0, NEVER], [2.0, NEVER]])).tolist()
        [[1.0], [2.0]]
    """
    return logits if logits.ndim < 2 else logits[:, (logits > NEVER / 2).any(0)]


def present_at(batch: Batch, hidden: Tensor, encoded: bool) -> Tensor:
    """Return which positions of a hidden state (B, S, D) count, bool, (B, S).

    Args:
        batch: Rows that the model got.
        hidden: Hidden state of the model on these rows.
        encoded: Whether the state comes from the encoder of an encoder-decoder; the batch's positions are then the
            decoder's, and do not apply.
    """
    mask = batch.inputs.get("attention_mask")
    for known in (None if encoded else batch.positions, mask):
        if known is not None and known.shape == hidden.shape[:2]:
            return known.bool()
    return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
