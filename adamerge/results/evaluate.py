"""Per-task metrics and their ratio to each expert's own (torchmetrics)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity

from adamerge.calibration.agreement import HeldOut
from adamerge.data.rows import Rows, move
from adamerge.merging.execution import Answer, execution_of
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.types import Coefficients, ConfigError

Scores: TypeAlias = dict[str, float | None]
"""By task, and "mean"; None where there is nothing to measure."""

SCALES = tuple(round(0.1 * step, 1) for step in range(1, 11))
"""Scales that task arithmetic is tried at."""


class Evaluation:
    """Labeled rows of every task and what is measured on them: accuracy in %, perplexity for language models.

    Args:
        model: All tasks' models.
        rows: Labeled rows by task.
        size: Rows a batch.
    """

    def __init__(self, model: MergedModel, rows: Mapping[str, Rows], size: int = 64) -> None:
        self._model, self._rows, self._size = model, rows, size

    @property
    def metric(self) -> str:
        """What is measured: accuracy or perplexity."""
        language = any(self._model.experts.tasks[task].kind.language_model for task in self._rows)
        return "perplexity" if language else "accuracy"

    def merged(self, coefficients: Coefficients, own_head: bool = True) -> Scores:
        """Scores of the model merged with these coefficients, (G, K)."""
        batches = {task: rows.batches(self._size) for task, rows in self._rows.items()}
        with execution_of(self._model).at(coefficients) as merged:
            return self._scores(merged.outputs(batches, own_head=own_head))

    def experts(self) -> Scores:
        """Scores of every expert on its own task."""
        return self._scores(self._answers_of_experts())

    def base(self) -> Scores:
        """Scores of the base with its own head; None for tasks that it has no head for."""
        fitting = {task: rows for task, rows in self._rows.items() if self._model.experts.head_of_base[task]}
        scores: Scores = dict.fromkeys([*self._rows, "mean"])
        if fitting:
            zero = uniform(self._model, 0.0)
            scores |= Evaluation(self._model, fitting, self._size).merged(zero, own_head=False)
        return scores if len(fitting) == len(self._rows) else {**scores, "mean": None}

    def _answers_of_experts(self) -> Iterator[Answer]:
        vectors = self._model.vectors
        for task, rows in self._rows.items():
            for batch in rows.batches(self._size):
                batch = move(batch, vectors.device, vectors.dtype)
                yield Answer(task, batch, self._model.forward_expert(task, batch.inputs))

    def _scores(self, answers: Iterable[Answer]) -> Scores:
        metrics: dict[str, Metric] = {}
        for task, batch, outputs in answers:
            if batch.labels is None:
                raise ConfigError(f"{task}: the evaluation rows have no labels.")
            if task not in metrics:
                metrics[task] = _metric(outputs.logits).to(outputs.logits.device)
            metrics[task].update(outputs.logits, batch.labels)
        values = {task: _value(metrics[task]) for task in self._rows}
        return {**values, "mean": mean(values)}


def tuned_scale(model: MergedModel, held_out: HeldOut) -> tuple[float, float]:
    """Scale of task arithmetic at which held-out agreement is highest, and that agreement.

    θ₀ + s·Σₖ τₖ for s in 0.1, 0.2, … 1.0; the smallest s wins a tie.

    Reference:
        Ilharco et al., Editing Models with Task Arithmetic, 2023; there s is picked on labeled rows.
    """
    found: dict[float, float] = {}
    for scale in SCALES:
        found[scale] = mean(held_out.agreement(model, uniform(model, scale)))
    best = max(SCALES, key=lambda scale: (found[scale], -scale))
    return best, found[best]


def mean(values: Mapping[str, float]) -> float:
    """Mean over tasks."""
    return sum(values.values()) / len(values)


def relative(scores: Scores, experts: Scores, higher_is_better: bool) -> Scores:
    """Scores in % of the expert's own, such that more is better: 100·s/e, or 100·e/s where less is better.

    Args:
        scores: s by task.
        experts: e, each expert's score on its own task.
        higher_is_better: As for accuracy; false for perplexity.

    Returns:
        By task; None where one of the two is missing.

    Example:
        >>> relative({"a": 45.0, "b": None}, {"a": 90.0, "b": 80.0}, higher_is_better=True)
        {'a': 50.0, 'b': None}
    """
    ratios: Scores = {}
    for task, value in scores.items():
        own = experts.get(task)
        ratios[task] = None if value is None or not own else 100 * (value / own if higher_is_better else own / value)
    return ratios


def _metric(logits: torch.Tensor) -> Metric:
    if logits.ndim == 3:
        return Perplexity(ignore_index=-100)
    return MulticlassAccuracy(num_classes=logits.shape[-1], average="micro")


def _value(metric: Metric) -> float:
    value = metric.compute().item()
    return 100 * value if isinstance(metric, MulticlassAccuracy) else value
