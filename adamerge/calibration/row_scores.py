"""What a merge is worth on held-out rows, row by row: agreement with the expert and divergence from it."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.batch import Batch, Outputs
from adamerge.objectives.alignment import partial_cross_entropy, soft_cross_entropy


class RowScores(NamedTuple):
    """Sums over the predictions of each row of a task, fp64, (N,).

    Attributes:
        predicted: Number of predictions.
        same: Number of predictions that equal the expert's.
        diverged: Sum of KL(expert ‖ merge), in nats; NaN if the expert's outputs are not known.

    Example:
        >>> scores = RowScores(torch.ones(2), torch.tensor([1.0, 0.0]), torch.tensor([0.1, 0.3]))
        >>> scores.agreement, round(scores.divergence, 3)
        (0.5, 0.2)
    """

    predicted: Tensor
    same: Tensor
    diverged: Tensor

    @property
    def agreement(self) -> float:
        """Share of predictions that equal the expert's, 0 to 1."""
        return (self.same.sum() / self.predicted.sum()).item()

    @property
    def divergence(self) -> float:
        """Mean divergence of a prediction from the expert's, in nats."""
        return (self.diverged.sum() / self.predicted.sum()).item()


def predictions(logits: Tensor, positions: Tensor | None) -> Tensor:
    """Return the most likely class of each row, or of each counted position, flat, int64.

    Args:
        logits: (B, C), or (B, S, C) of a model that predicts at every position.
        positions: Which positions count, bool, (B, S); None counts all.

    Example:
        >>> predictions(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[True, False]]))
        tensor([1])
    """
    return _flat(logits.argmax(-1), positions)


def divergences(outputs: Outputs, targets: Outputs, positions: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Compute KL(expert ‖ merge) of each row, or of each counted position, flat; `LogitAlignment` is its mean.

    Args:
        outputs: The merged model's.
        targets: The expert's, of the same rows.
        positions: As for `predictions`.
        temperature: T > 0, with which the logarithms of a large vocabulary were stored; the factor T² is included.

    Example:
        >>> same = Outputs(torch.tensor([[1.0, 2.0]]))
        >>> divergences(same, same, None)
        tensor([0.])
    """
    logits = outputs.logits.float() if outputs.logits.itemsize < 4 else outputs.logits
    if targets.top is not None:
        return _flat(partial_cross_entropy(logits, targets.top, targets.logits, temperature), positions)
    return _flat(soft_cross_entropy(logits, targets.logits, temperature), positions)


def score(batches: Iterable[tuple[Batch, Tensor, Tensor, Tensor | None]], rows: int) -> RowScores:
    """Sum the predictions of each row.

    Args:
        batches: Per batch: the batch, the merged model's and the expert's predictions, flat, and the divergences, flat,
            if they are known.
        rows: N.
    """
    sums = torch.zeros(3, rows, dtype=torch.float64)
    for batch, found, expected, diverged in batches:
        same = found == expected.to(found.device)
        lost = torch.full(same.shape, torch.nan) if diverged is None else diverged
        terms = torch.stack([one.detach().cpu().double() for one in (torch.ones_like(same), same, lost)])
        sums.index_add_(1, _rows_of(batch, same), terms)
    return RowScores(*sums)


def _rows_of(batch: Batch, flat: Tensor) -> Tensor:
    """Find the row of each of a batch's predictions, int64, (P,)."""
    rows = batch.rows.cpu()
    if batch.positions is not None and len(flat) == int(batch.positions.sum()):
        return rows[batch.positions.cpu().nonzero()[:, 0]]
    return rows.repeat_interleave(len(flat) // len(rows))


def _flat(values: Tensor, positions: Tensor | None) -> Tensor:
    return values.flatten() if positions is None else values[positions]
