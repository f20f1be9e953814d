"""A weighted objective of one batch in parts, each of the logits of some positions."""

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from adamerge.batch import Batch, Outputs
from adamerge.merging.work import Chunks
from adamerge.objectives import Objective


def in_chunks(
    objective: Objective, weight: float, outputs: Outputs, batch: Batch, targets: Outputs | None, size: int
) -> Chunks:
    """Divide a loss by positions: a mean over N counted ones is the sum of the means over parts, n/N times each.

    Args:
        objective: The objective, which has a part by position.
        weight: Factor of the whole.
        outputs: The merged model's, of whose logits (B, S, C) only the shape counts.
        batch: The rows.
        targets: The experts' outputs, if the objective compares with them.
        size: Positions in a part.
    """
    rest = objective.not_by_position
    return Chunks(
        None if rest is None else weight * rest(outputs, batch, targets),
        _parts(objective, weight, outputs, batch, targets, size),
    )


def _parts(
    objective: Objective, weight: float, outputs: Outputs, batch: Batch, targets: Outputs | None, size: int
) -> Iterator[tuple[slice, Callable[[Tensor], Tensor]]]:
    by_position = objective.by_position
    assert by_position is not None
    whole = max(1, _counted(batch, outputs, slice(None)))
    for start in range(0, outputs.logits.shape[1], size):
        cut = slice(start, min(start + size, outputs.logits.shape[1]))
        share = _counted(batch, outputs, cut) / whole
        if share:
            own = batch._replace(positions=_cut(batch.positions, cut), labels=_cut(batch.labels, cut))
            goal = None if targets is None else _of_positions(targets, cut)
            yield cut, partial(_loss, by_position, weight * share, outputs, own, goal)


def _loss(
    objective: Objective, weight: float, outputs: Outputs, batch: Batch, targets: Outputs | None, logits: Tensor
) -> Tensor:
    """Compute the loss of some positions; `outputs` says what their logits are."""
    return weight * objective(outputs._replace(logits=logits, hidden=(), encoded=()), batch, targets)


def _of_positions(targets: Outputs, cut: slice) -> Outputs:
    top = None if targets.top is None else targets.top[:, cut]
    return targets._replace(logits=targets.logits[:, cut], top=top, hidden=(), encoded=())


def _counted(batch: Batch, outputs: Outputs, cut: slice) -> int:
    if batch.positions is None:
        return len(range(outputs.logits.shape[1])[cut]) * len(outputs.logits)
    return int(batch.positions[:, cut].sum())


def _cut(tensor: Tensor | None, cut: slice) -> Tensor | None:
    return None if tensor is None else tensor[:, cut]
