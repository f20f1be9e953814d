"""Held-out rows: agreement with the experts, divergence from them, and the objective; none needs labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.batch import Batch, Outputs
from adamerge.calibration.row_scores import RowScores, alike, divergences, predictions, score
from adamerge.calibration.targets import Targets
from adamerge.data.rows import Rows, Subset, count
from adamerge.experts.experts import KEEP
from adamerge.merging.device import each_in_bf16
from adamerge.merging.execution import Answer, execution_of, expert_of
from adamerge.merging.forward_pass import Layers
from adamerge.merging.merged_model import MergedModel
from adamerge.objectives import Objective, objective_of_teacher
from adamerge.optim.processes import rank_and_count, share_of, sum_over_processes
from adamerge.types import Coefficients


class Measured(NamedTuple):
    """Agreement, divergence and objective on the held-out rows.

    Attributes:
        agreement: Share of predictions that equal the expert's, per task, 0 to 1.
        objective: Mean of the objective, per task.
        divergence: Mean of KL(expert ‖ merge) in nats, per task; NaN if the experts' outputs are not known.
    """

    agreement: dict[str, float]
    objective: dict[str, float]
    divergence: dict[str, float]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows that are not learned from, with each expert's predictions on its own rows.

    Attributes:
        rows: Held-out rows per task.
        predicted: Each expert's predictions per task, one tensor per batch.
        targets: Each expert's outputs on these rows per task; empty if they are not known.
        size: Rows per batch.
        temperature: Of the divergence, in which the targets of a large vocabulary are stored.
        keep: How much the base's rows, if there are any, count in means: this times as much as all tasks together.
        bf16: Whether merges answer in bf16, by autocast.
        fresh: The same with rows that chose nothing, of the tasks that have such; None if no task has.
    """

    rows: Mapping[str, Rows]
    predicted: Mapping[str, list[Tensor]]
    targets: Mapping[str, Targets]
    size: int
    temperature: float = 1.0
    keep: float = 1.0
    bf16: bool = False
    fresh: "HeldOut | None" = None

    @property
    def judging(self) -> "HeldOut":
        """What finished merges are judged by: rows that chose nothing, where there are such."""
        return self.fresh or self

    @property
    def flattered(self) -> list[str]:
        """Tasks whose rows judge what they chose."""
        return [task for task, own in self.judging.rows.items() if own is self.rows.get(task)]

    def count(self, task: str) -> int:
        """Return how many of a task's rows are held out."""
        own = len(self.rows.get(task, ()))
        return own if task in self.flattered else own + len(self.judging.rows.get(task, ()))

    @property
    def weights(self) -> dict[str, float]:
        """Factor of each task in a mean over tasks."""
        experts = len(self.rows.keys() - {KEEP})
        return {task: self.keep * experts if task == KEEP and experts else 1.0 for task in self.rows}

    def mean(self, values: Mapping[str, float]) -> float:
        """Compute the weighted mean over tasks."""
        weights = self.weights
        return sum(weights[task] * value for task, value in values.items()) / sum(weights.values())

    def __bool__(self) -> bool:
        """Return whether there is any held-out row."""
        return bool(self.rows)

    def agreement(self, model: MergedModel, coefficients: Coefficients) -> dict[str, float]:
        """Compute the share of predictions on which merged model and expert agree, per task, 0 to 1.

        Args:
            model: Experts, task vectors and grouping.
            coefficients: Coefficients to merge with, (G, K).
        """
        return {task: own.agreement for task, own in self.judge(model, coefficients).items()}

    def judge(self, model: MergedModel, coefficients: Coefficients) -> dict[str, RowScores]:
        """Compute agreement and divergence of every row, per task.

        Args:
            model: Experts, task vectors and grouping.
            coefficients: Coefficients to merge with, (G, K).
        """
        tallies = {task: _Tally() for task in self.rows}
        for answer, expected in self._answers(model, coefficients, ()):
            tallies[answer.task].compare(answer, expected, self._targets(answer), self)
        return self._scores(tallies, model.vectors.device)

    def measure(self, model: MergedModel, coefficients: Coefficients, objective: Objective) -> Measured:
        """Compute agreement, divergence and the mean of an objective in one pass over all held-out rows.

        Args:
            model: Experts, task vectors and grouping.
            coefficients: Coefficients to merge with, (G, K).
            objective: Loss of the merged model's outputs.
        """
        tallies = {task: _Tally() for task in self.rows}
        for answer, expected in self._answers(model, coefficients, objective.layers):
            tally, targets = tallies[answer.task], self._targets(answer)
            tally.compare(answer, expected, targets, self)
            own = objective_of(answer.task, objective)
            goal = targets if own.uses_targets else None
            tally.lose(answer.batch, own(answer.outputs, answer.batch, goal).item())
        device = model.vectors.device
        scores = self._scores(tallies, device)
        sums = torch.tensor([[tally.total, tally.counted] for tally in tallies.values()], dtype=torch.float64)
        total, counted = _of_all_processes(sums, device).unbind(1)
        return Measured(
            {task: own.agreement for task, own in scores.items()},
            dict(zip(tallies, (total / counted).tolist(), strict=True)),
            {task: own.divergence for task, own in scores.items()},
        )

    def first(self, rows: int) -> "HeldOut":
        """Return the same without all but the first rows of every task."""
        kept = {task: Subset(own, range(min(rows, len(own)))) for task, own in self.rows.items()}
        predicted = {task: [self.targets[task].predictions(b) for b in kept[task].batches(self.size)] for task in kept}
        return HeldOut(kept, predicted, self.targets, self.size, self.temperature, self.keep, self.bf16)

    def _scores(self, tallies: Mapping[str, "_Tally"], device: torch.device) -> dict[str, RowScores]:
        own = {task: score(tally.seen, len(self.rows[task])).sums for task, tally in tallies.items()}
        summed, weights = {task: _of_all_processes(sums, device) for task, sums in own.items()}, self.weights
        return {task: RowScores(*sums.unbind(), weight=weights[task]) for task, sums in summed.items()}

    def _targets(self, answer: Answer) -> Outputs | None:
        known = self.targets.get(answer.task)
        return None if known is None else known(answer.batch, answer.outputs)

    def _answers(
        self, model: MergedModel, coefficients: Coefficients, layers: Layers
    ) -> Iterator[tuple[Answer, Tensor]]:
        """Yield the merged model's outputs on every batch of this process, with the expert's predictions."""
        tasks, execution = list(enumerate(self.rows)), execution_of(model)
        expected = {task: iter(share_of(self.predicted[task], turn)) for turn, task in tasks}
        batches = {task: self._batches(task, turn, execution.in_step) for turn, task in tasks}
        with execution.at(coefficients) as merged:
            for answer in each_in_bf16(merged.outputs(batches, layers), model.vectors.device, bf16=self.bf16):
                own = next(expected[answer.task], None)
                if own is not None:  # else a batch that another process answers for
                    yield answer, own

    def _batches(self, task: str, turn: int, even: bool) -> Iterator[Batch]:
        """Yield this process's share of the batches of one task."""
        rows = self.rows[task]
        return map(rows.batch, share_of(list(rows.divided(self.size)), turn, even=even))


def objective_of(task: str, objective: Objective) -> Objective:
    """Return the objective of a task's rows, or of the base's: what of it compares with a teacher."""
    return objective_of_teacher(objective) if task == KEEP else objective


@dataclass
class _Tally:
    """Sums over the batches of one task."""

    seen: list[tuple[Batch, Tensor, Tensor | None]] = field(default_factory=list)  # pyright: ignore
    total: float = 0.0
    counted: float = 0.0

    def compare(self, answer: Answer, expected: Tensor, targets: Outputs | None, held_out: HeldOut) -> None:
        positions, form = answer.batch.positions, answer.outputs.form
        found = predictions(answer.outputs.logits, positions, form)
        same = alike(found, expected, form, torch.cat(held_out.predicted[answer.task]) if expected.ndim > 1 else None)
        lost = None if targets is None else divergences(answer.outputs, targets, positions, held_out.temperature)
        self.seen.append((answer.batch._replace(inputs={}), same, lost))

    def lose(self, batch: Batch, objective: float) -> None:
        self.total += count(batch) * objective
        self.counted += count(batch)


def _of_all_processes(sums: Tensor, device: torch.device) -> Tensor:
    """Add up the sums of all processes, each of which has measured its share of the batches; fp64, on the CPU."""
    return sums if rank_and_count()[1] == 1 else sum_over_processes(sums.to(device)).cpu()


def hold_out(
    model: MergedModel,
    rows: Mapping[str, Rows],
    size: int,
    targets: Mapping[str, Targets] | None = None,
    temperature: float = 1.0,
    keep: float = 1.0,
    *,
    bf16: bool = False,
) -> HeldOut:
    """Predict each task's held-out rows once with its expert, or read the predictions from its targets.

    Args:
        model: Runs the experts.
        rows: Held-out rows per task; tasks without rows are dropped.
        size: Rows per batch.
        targets: Each expert's outputs on these rows, per task, if computed before; these experts do not run again.
            The divergence needs them.
        temperature: Of the divergence; that with which the targets of a large vocabulary were stored.
        keep: How much the base's rows count.
        bf16: Whether passes, also those of merges later, compute in bf16 by autocast.

    Returns:
        Rows and predictions of the tasks that have held-out rows.
    """
    rows, targets = {task: own for task, own in rows.items() if len(own)}, targets or {}
    predicted = {
        task: _from_targets(own, size, targets[task]) if task in targets else _from_expert(model, task, own, size, bf16)
        for task, own in rows.items()
    }
    return HeldOut(rows, predicted, targets, size, temperature, keep, bf16)


def _from_targets(rows: Rows, size: int, targets: Targets) -> list[Tensor]:
    return [targets.predictions(batch) for batch in rows.batches(size)]


def _from_expert(model: MergedModel, task: str, rows: Rows, size: int, bf16: bool) -> list[Tensor]:
    outputs = expert_of(model, task).outputs(rows.batches(size))
    answers = each_in_bf16(outputs, model.vectors.device, bf16=bf16)
    return [predictions(own.outputs.logits, own.batch.positions, own.outputs.form) for own in answers]
