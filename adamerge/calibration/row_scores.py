"""What a merge is worth on held-out rows, row by row: agreement with the expert and divergence from it."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.batch import Batch, Form, Outputs, widened
from adamerge.objectives.alignment import partial_cross_entropy, soft_cross_entropy
from adamerge.objectives.divergences import distance

MOST_OTHERS = 1024
"""Predictions of the expert that numbers and vectors are compared with."""

_TIE = 1e-6
"""Difference of two cosines that rounding explains."""


class RowScores(NamedTuple):
    """Sums over the predictions of each row of a task, fp64, (N,).

    Attributes:
        predicted: Number of predictions.
        same: Number of predictions that equal the expert's.
        diverged: Sum of KL(expert ‖ merge), in nats; NaN if the expert's outputs are not known.
        weight: Factor of the task in a mean over tasks.

    Example:
        >>> scores = RowScores(torch.ones(2), torch.tensor([1.0, 0.0]), torch.tensor([0.1, 0.3]))
        >>> scores.agreement, round(scores.divergence, 3)
        (0.5, 0.2)
    """

    predicted: Tensor
    same: Tensor
    diverged: Tensor
    weight: float = 1.0

    @property
    def sums(self) -> Tensor:
        """The three in one tensor, (3, N)."""
        return torch.stack([self.predicted, self.same, self.diverged])

    @property
    def agreement(self) -> float:
        """Share of predictions that equal the expert's, 0 to 1."""
        return (self.same.sum() / self.predicted.sum()).item()

    @property
    def divergence(self) -> float:
        """Mean divergence of a prediction from the expert's, in nats."""
        return (self.diverged.sum() / self.predicted.sum()).item()


def predictions(logits: Tensor, positions: Tensor | None, form: Form = "classes") -> Tensor:
    """Return the most likely class of each row, or of each counted position, flat, int64, (P,).

    Of labels it is which of them are likelier than not, bool, (P, C); of numbers and vectors these themselves, (P, D).

    Args:
        logits: (B, C), or (B, S, C) of a model that predicts at every position.
        positions: Which positions count, bool, (B, S); None counts all.
        form: What the logits are.

    Example:
        >>> predictions(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[True, False]]))
        tensor([1])
    """
    if form in ("classes", "spans"):
        return _flat(logits.argmax(-1), positions)
    own = logits > 0 if form == "labels" else logits.float()
    return own.flatten(0, -2) if positions is None or logits.ndim < 3 else own[positions]


def alike(found: Tensor, expected: Tensor, form: Form, every: Tensor | None = None) -> Tensor:
    """Compare predictions with the expert's, 0 to 1 each, (P,).

    Classes and spans are alike if they are equal, the labels of a row if all are. The score of a number is the share of
    the expert's predictions that it ranks against as the expert's own number does: Σⱼ [sign(y − y*ⱼ) = sign(y* − y*ⱼ)]
    / Σⱼ 1, over the j with y*ⱼ ≠ y*. A vector is alike if of all the expert's vectors its own one is the nearest.

    Args:
        found: The merged model's, (P,) or (P, D).
        expected: The expert's, likewise.
        form: What is predicted.
        every: All predictions of the expert, (N, D), for numbers and vectors.

    Example:
        >>> numbers = torch.tensor([[1.0], [2.0], [3.0]])
        >>> alike(torch.tensor([[2.5]]), numbers[:1], "numbers", numbers).tolist()
        [0.5]
    """
    expected = expected.to(found.device)
    if form not in ("numbers", "vectors"):
        same = found == expected
        return same if same.ndim == 1 else same.all(-1)
    assert every is not None
    others = every[:MOST_OTHERS].to(found.device)
    if form == "vectors":
        nearest = (found @ others.T).amax(1)
        return (found * expected).sum(-1) >= nearest - _TIE
    mine, own = (one.unsqueeze(1) - others for one in (found, expected))  # (P, N, D)
    counts = own != 0
    ordered = ((mine.sign() == own.sign()) & counts).sum(1) / counts.sum(1).clamp_min(1)
    return torch.where(counts.any(1), ordered, 1.0).mean(-1)


def divergences(outputs: Outputs, targets: Outputs, positions: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Compute KL(expert ‖ merge) of each row, or of each counted position, flat; `LogitAlignment` is its mean.

    Args:
        outputs: The merged model's.
        targets: The expert's, of the same rows.
        positions: As for `predictions`.
        temperature: T > 0, with which the logarithms of a large vocabulary were stored; the factor T² is included.
            Where all logits are stored it is 1, whatever the objective's.

    Example:
        >>> same = Outputs(torch.tensor([[1.0, 2.0]]))
        >>> divergences(same, same, None)
        tensor([0.])
    """
    logits = widened(outputs.logits)
    if outputs.form in ("labels", "numbers", "vectors"):
        return _flat(distance(outputs._replace(logits=logits), targets, 1.0), positions)
    if targets.top is not None:
        return _flat(partial_cross_entropy(logits, targets.top, targets.logits, temperature), positions)
    return _flat(soft_cross_entropy(logits, targets.logits), positions)


def score(batches: Iterable[tuple[Batch, Tensor, Tensor | None]], rows: int) -> RowScores:
    """Sum the predictions of each row.

    Args:
        batches: Per batch: the batch, how much the merged model's predictions are like the expert's, flat, and the
            divergences, flat, if they are known.
        rows: N.
    """
    sums = torch.zeros(3, rows, dtype=torch.float64)
    for batch, same, diverged in batches:
        lost = torch.full(same.shape, torch.nan) if diverged is None else diverged
        terms = torch.stack([one.detach().cpu().double() for one in (torch.ones_like(same), same, lost)])
        sums.index_add_(1, _rows_of(batch, same), terms)
    predicted, same, diverged = sums
    return RowScores(predicted, same, diverged)


def _rows_of(batch: Batch, flat: Tensor) -> Tensor:
    """Find the row of each of a batch's predictions, int64, (P,)."""
    rows = batch.rows.cpu()
    if batch.positions is not None and len(flat) == int(batch.positions.sum()):
        return rows[batch.positions.cpu().nonzero()[:, 0]]
    return rows.repeat_interleave(len(flat) // len(rows))


def _flat(values: Tensor, positions: Tensor | None) -> Tensor:
    return values.flatten() if positions is None else values[positions]
