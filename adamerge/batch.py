"""Rows of one task as a batch, a model's outputs on it, and the positions that count."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Some rows of one task.

    Attributes:
        inputs: Keyword arguments of the task's module.
        rows: Which rows of the task's data these are, int64, (B,).
        positions: Which positions count, bool, (B, S); None where the model says one thing a row.
        labels: (B,), or (B, S) with -100 where there is none; None where the rows have no labels.
    """

    inputs: Mapping[str, Tensor]
    rows: Tensor
    positions: Tensor | None = None
    labels: Tensor | None = None


class Outputs(NamedTuple):
    """What a task's model says of a batch.

    Attributes:
        logits: (B, C), or (B, S, C) where the model speaks at every position. With `top`, log-probabilities of those
            words, and of all the rest together, (…, k + 1).
        hidden: Hidden states that were asked for, each (B, S, D).
        top: Indices of the likeliest words, int64, (…, k), where no more than these was kept.
        encoded: Of each hidden state, whether it is of an encoder that a decoder reads.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    top: Tensor | None = None
    encoded: tuple[bool, ...] = ()


def mean_where(values: Tensor, positions: Tensor | None) -> Tensor:
    """Mean of values (B,) or (B, S) over what counts: everything, or the positions (B, S) that are true.

    Example:
        >>> mean_where(torch.tensor([[1.0, 9.0]]), torch.tensor([[True, False]])).item()
        1.0
    """
    if positions is None or values.ndim < 2:
        return values.mean()
    counts = positions.to(values.dtype)
    return (values * counts).sum() / counts.sum().clamp_min(1)


def present_at(batch: Batch, hidden: Tensor, encoded: bool) -> Tensor:
    """Which positions of a hidden state (B, S, D) count, bool, (B, S).

    Args:
        batch: The rows.
        hidden: Of the model that they were run through.
        encoded: Whether it is of an encoder that a decoder reads, so that the batch's positions are not its own.
    """
    mask = batch.inputs.get("attention_mask")
    for known in (None if encoded else batch.positions, mask):
        if known is not None and known.shape == hidden.shape[:2]:
            return known.bool()
    return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
