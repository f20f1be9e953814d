"""Agreement: how often the merged model predicts what the task's expert predicts; needs no labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from adamerge.batch import Batch
from adamerge.calibration.targets import Targets
from adamerge.data.rows import Rows, count, move
from adamerge.merging.execution import Answer, execution_of
from adamerge.merging.merged_model import Layers, MergedModel
from adamerge.objectives import Objective
from adamerge.types import Coefficients


def predictions(logits: Tensor, positions: Tensor | None) -> Tensor:
    """The most likely class of each row, or of each position that counts, flat, int64.

    Example:
        >>> predictions(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[True, False]]))
        tensor([1])
    """
    best = logits.argmax(-1)
    return best.flatten() if positions is None else best[positions]


class Measured(NamedTuple):
    """What held-out rows say of coefficients.

    Attributes:
        agreement: Share of predictions in common with the expert, by task, 0 to 1.
        objective: Mean of the objective, by task.
    """

    agreement: dict[str, float]
    objective: dict[str, float]


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

    def agreement(self, model: MergedModel, coefficients: Coefficients) -> dict[str, float]:
        """Share of predictions that merged model and expert have in common, by task, 0 to 1."""
        tallies = {task: _Tally() for task in self.rows}
        for answer, expected in self._answers(model, coefficients, ()):
            tallies[answer.task].compare(answer, expected)
        return {task: tally.agreement for task, tally in tallies.items()}

    def measure(self, model: MergedModel, coefficients: Coefficients, objective: Objective) -> Measured:
        """Agreement, and the mean of an objective over the held-out rows, both from one pass of all rows."""
        tallies = {task: _Tally() for task in self.rows}
        for answer, expected in self._answers(model, coefficients, objective.layers):
            tallies[answer.task].compare(answer, expected)
            targets = self.targets[answer.task](answer.batch, answer.outputs) if objective.uses_targets else None
            tallies[answer.task].lose(answer.batch, objective(answer.outputs, answer.batch, targets).item())
        agreement = {task: tally.agreement for task, tally in tallies.items()}
        return Measured(agreement, {task: tally.objective for task, tally in tallies.items()})

    def _answers(
        self, model: MergedModel, coefficients: Coefficients, layers: Layers
    ) -> Iterator[tuple[Answer, Tensor]]:
        """The merged model's answer on every batch, with the expert's predictions."""
        expected = {task: iter(own) for task, own in self.predicted.items()}
        batches = {task: own.batches(self.size) for task, own in self.rows.items()}
        with execution_of(model).at(coefficients) as merged:
            for answer in merged.outputs(batches, layers):
                yield answer, next(expected[answer.task])


@dataclass
class _Tally:
    """Running sums over the batches of one task."""

    same: int = 0
    predicted: int = 0
    total: float = 0.0
    counted: float = 0.0

    def compare(self, answer: Answer, expected: Tensor) -> None:
        found = predictions(answer.outputs.logits, answer.batch.positions)
        self.same += int((found == expected.to(found.device)).sum())
        self.predicted += found.numel()

    def lose(self, batch: Batch, objective: float) -> None:
        self.total += count(batch) * objective
        self.counted += count(batch)

    @property
    def agreement(self) -> float:
        return self.same / self.predicted

    @property
    def objective(self) -> float:
        return self.total / self.counted


def hold_out(
    model: MergedModel, rows: Mapping[str, Rows], size: int, targets: Mapping[str, Targets] | None = None
) -> HeldOut:
    """Let each expert predict its held-out rows once, or read its predictions from its targets.

    Args:
        model: Runs the experts.
        rows: Held-out rows by task; tasks without any are left out.
        size: Rows a batch.
        targets: What each expert says of them, where that is known already, by task; those experts are not run.
    """
    rows, targets = {task: own for task, own in rows.items() if len(own)}, targets or {}
    predicted = {
        task: [_predicted(model, task, batch, targets.get(task)) for batch in _moved(own, size, model)]
        for task, own in rows.items()
    }
    return HeldOut(rows, predicted, targets, size)


def _predicted(model: MergedModel, task: str, batch: Batch, targets: Targets | None) -> Tensor:
    if targets is not None:
        return targets.predictions(batch)
    return predictions(model.forward_expert(task, batch.inputs).logits, batch.positions)


def _moved(rows: Rows, size: int, model: MergedModel) -> Iterator[Batch]:
    return (move(batch, model.vectors.device, model.vectors.dtype) for batch in rows.batches(size))
