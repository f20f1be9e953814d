"""Agreement: how often the merged model predicts what the task's expert predicts; needs no labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.batch import Batch, Outputs
from adamerge.calibration.targets import Targets
from adamerge.data.rows import Rows, count, move
from adamerge.merging.merged_model import MergedModel
from adamerge.objectives import Objective
from adamerge.types import Parameters


def predictions(logits: Tensor, positions: Tensor | None) -> Tensor:
    """The most likely class of each row, or of each position that counts, flat, int64.

    Example:
        >>> predictions(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[True, False]]))
        tensor([1])
    """
    best = logits.argmax(-1)
    return best if positions is None else best[positions]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that no step learns from, with each expert's predictions on its own ones.

    Attributes:
        rows: By task.
        predicted: Each expert's predictions, a tensor a batch, by task.
        targets: What each expert says of them, for objectives that compare with it, by task; else empty.
        size: Rows a batch.
    """

    rows: Mapping[str, Rows]
    predicted: Mapping[str, list[Tensor]]
    targets: Mapping[str, Targets]
    size: int

    def __bool__(self) -> bool:
        """Whether there is any row."""
        return bool(self.rows)

    @torch.no_grad()
    def agreement(self, model: MergedModel, merged: Parameters) -> dict[str, float]:
        """Share of predictions that merged model and expert have in common, by task, 0 to 1."""
        return {task: self._share(model, merged, task) for task in self.rows}

    def _share(self, model: MergedModel, merged: Parameters, task: str) -> float:
        same = total = 0
        for batch, expected in zip(_moved(self.rows[task], self.size, model), self.predicted[task], strict=True):
            found = predictions(model.forward(task, merged, batch.inputs).logits, batch.positions)
            same += int((found == expected.to(found.device)).sum())
            total += found.numel()
        return same / total

    @torch.no_grad()
    def objective(self, model: MergedModel, merged: Parameters, objective: Objective) -> dict[str, float]:
        """Mean of an objective over the held-out rows, by task; one that compares does so with the kept outputs."""
        return {task: self._mean(model, merged, task, objective) for task in self.rows}

    def _mean(self, model: MergedModel, merged: Parameters, task: str, objective: Objective) -> float:
        total = counted = 0.0
        for batch in _moved(self.rows[task], self.size, model):
            outputs = model.forward(task, merged, batch.inputs, objective.layers)
            targets = self.targets[task](batch, outputs) if objective.uses_targets else None
            total += count(batch) * objective(outputs, batch, targets).item()
            counted += count(batch)
        return total / counted


def hold_out(
    model: MergedModel, rows: Mapping[str, Rows], size: int, targets: Mapping[str, Targets] | None = None
) -> HeldOut:
    """Let each expert predict its held-out rows once; afterwards no expert is run again.

    Args:
        model: Runs the experts.
        rows: Held-out rows by task; tasks without any are left out.
        size: Rows a batch.
        targets: What each expert says of them, for objectives that compare with it.
    """
    rows = {task: own for task, own in rows.items() if len(own)}
    predicted = {
        task: [predictions(_expert(model, task, batch).logits, batch.positions) for batch in _moved(own, size, model)]
        for task, own in rows.items()
    }
    return HeldOut(rows, predicted, targets or {}, size)


def _expert(model: MergedModel, task: str, batch: Batch) -> Outputs:
    return model.forward_expert(task, batch.inputs)


def _moved(rows: Rows, size: int, model: MergedModel) -> Iterator[Batch]:
    return (move(batch, model.vectors.device, model.vectors.dtype) for batch in rows.batches(size))
