"""Agreement: share of rows on which merged model and expert predict the same class; needs no labels."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.batch import Batch
from adamerge.calibration.targets import Targets
from adamerge.data.rows import Rows, count
from adamerge.merging.execution import Answer, execution_of, expert_of
from adamerge.merging.forward_pass import Layers
from adamerge.merging.merged_model import MergedModel
from adamerge.objectives import Objective
from adamerge.optim.processes import share_of, sum_over_processes
from adamerge.types import Coefficients


def predictions(logits: Tensor, positions: Tensor | None) -> Tensor:
    """Return the most likely class of each row, or of each counted position, flat, int64.

    Args:
        logits: (B, C), or (B, S, C) of a model that predicts at every position.
        positions: Which positions count, bool, (B, S); None counts all.

    Example:
        >>> import torch
        >>> predictions(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[True, False]]))
        tensor([1])
    """
    best = logits.argmax(-1)
    return best.flatten() if positions is None else best[positions]


class Measured(NamedTuple):
    """Agreement and objective on the held-out rows.

    Attributes:
        agreement: Share of predictions that equal the expert's, per task, 0 to 1.
        objective: Mean of the objective, per task.
    """

    agreement: dict[str, float]
    objective: dict[str, float]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that are not learned from, with each expert's predictions on its own rows.

    Attributes:
        rows: Held-out rows per task.
        predicted: Each expert's predictions per task, one tensor per batch.
        targets: Each expert's outputs on these rows per task, for objectives that compare with them; else empty.
        size: Rows per batch.
    """

    rows: Mapping[str, Rows]
    predicted: Mapping[str, list[Tensor]]
    targets: Mapping[str, Targets]
    size: int

    def __bool__(self) -> bool:
        """Return whether there is any held-out row."""
        return bool(self.rows)

    def agreement(self, model: MergedModel, coefficients: Coefficients) -> dict[str, float]:
        """Compute the share of predictions on which merged model and expert agree, per task, 0 to 1.

        Args:
            model: Experts, task vectors and grouping.
            coefficients: Coefficients to merge with, (G, K).
        """
        tallies = {task: _Tally() for task in self.rows}
        for answer, expected in self._answers(model, coefficients, ()):
            tallies[answer.task].compare(answer, expected)
        tallies = _of_all_processes(tallies, model.vectors.device)
        return {task: tally.agreement for task, tally in tallies.items()}

    def measure(self, model: MergedModel, coefficients: Coefficients, objective: Objective) -> Measured:
        """Compute agreement and the mean of an objective in one pass over all held-out rows.

        Args:
            model: Experts, task vectors and grouping.
            coefficients: Coefficients to merge with, (G, K).
            objective: Loss of the merged model's outputs.
        """
        tallies = {task: _Tally() for task in self.rows}
        for answer, expected in self._answers(model, coefficients, objective.layers):
            tallies[answer.task].compare(answer, expected)
            targets = self.targets[answer.task](answer.batch, answer.outputs) if objective.uses_targets else None
            tallies[answer.task].lose(answer.batch, objective(answer.outputs, answer.batch, targets).item())
        tallies = _of_all_processes(tallies, model.vectors.device)
        agreement = {task: tally.agreement for task, tally in tallies.items()}
        return Measured(agreement, {task: tally.objective for task, tally in tallies.items()})

    def _answers(
        self, model: MergedModel, coefficients: Coefficients, layers: Layers
    ) -> Iterator[tuple[Answer, Tensor]]:
        """Yield the merged model's outputs on every batch of this process, with the expert's predictions."""
        tasks = list(enumerate(self.rows))
        expected = {task: iter(share_of(self.predicted[task], turn)) for turn, task in tasks}
        batches = {task: self._batches(task, turn) for turn, task in tasks}
        with execution_of(model).at(coefficients) as merged:
            for answer in merged.outputs(batches, layers):
                yield answer, next(expected[answer.task])

    def _batches(self, task: str, turn: int) -> Iterator[Batch]:
        """Yield this process's share of the batches of one task."""
        rows = self.rows[task]
        return map(rows.batch, share_of(list(rows.divided(self.size)), turn))


@dataclass
class _Tally:
    """Sums over the batches of one task."""

    same: float = 0
    predicted: float = 0
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


def _of_all_processes(tallies: Mapping[str, _Tally], device: torch.device) -> dict[str, _Tally]:
    """Add up the sums of all processes, each of which has measured its share of the batches."""
    table = torch.tensor([astuple(tally) for tally in tallies.values()], dtype=torch.float64, device=device)
    return {task: _Tally(*row) for task, row in zip(tallies, sum_over_processes(table).tolist(), strict=True)}


def hold_out(
    model: MergedModel, rows: Mapping[str, Rows], size: int, targets: Mapping[str, Targets] | None = None
) -> HeldOut:
    """Predict each task's held-out rows once with its expert, or read the predictions from its targets.

    Args:
        model: Runs the experts.
        rows: Held-out rows per task; tasks without rows are dropped.
        size: Rows per batch.
        targets: Each expert's outputs on these rows, per task, if computed before; these experts do not run again.

    Returns:
        Rows and predictions of the tasks that have held-out rows.
    """
    rows, targets = {task: own for task, own in rows.items() if len(own)}, targets or {}
    predicted = {
        task: _from_targets(own, size, targets[task]) if task in targets else _from_expert(model, task, own, size)
        for task, own in rows.items()
    }
    return HeldOut(rows, predicted, targets, size)


def _from_targets(rows: Rows, size: int, targets: Targets) -> list[Tensor]:
    return [targets.predictions(batch) for batch in rows.batches(size)]


def _from_expert(model: MergedModel, task: str, rows: Rows, size: int) -> list[Tensor]:
    answers = expert_of(model, task).outputs(rows.batches(size))
    return [predictions(answer.outputs.logits, answer.batch.positions) for answer in answers]
