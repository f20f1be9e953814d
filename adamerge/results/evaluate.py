"""Metrics per task and their ratio to each expert's own (torchmetrics)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.text import Perplexity

from adamerge.data.rows import Rows
from adamerge.merging.execution import Answer, execution_of, expert_of
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.types import Coefficients, ConfigError

MEAN = "mean"
"""Key of the mean over tasks; no task may have this name."""

Scores: TypeAlias = dict[str, float | None]
"""Score by task and of "mean"; None without anything to measure."""

SCALES = tuple(round(0.1 * step, 1) for step in range(1, 11))
"""Scales of task arithmetic that are tried."""


class Evaluation:
    """Evaluation on labeled rows of every task: accuracy in %, or perplexity for language models.

    Args:
        model: All tasks' models.
        rows: Labeled rows by task.
        size: Rows per batch.
    """

    def __init__(self, model: MergedModel, rows: Mapping[str, Rows], size: int = 64) -> None:
        self._model, self._rows, self._size = model, rows, size

    @property
    def metric(self) -> str:
        """The metric: accuracy or perplexity."""
        language = any(self._model.experts.tasks[task].kind.language_model for task in self._rows)
        return "perplexity" if language else "accuracy"

    def merged(self, coefficients: Coefficients, own_head: bool = True) -> Scores:
        """Evaluate the model merged with these coefficients.

        Args:
            coefficients: (G, K).
            own_head: Whether to use each task's head and not the base's.

        Returns:
            Score by task, and their mean.
        """
        batches = {task: rows.batches(self._size) for task, rows in self._rows.items()}
        with execution_of(self._model).at(coefficients) as merged:
            return self._scores(merged.outputs(batches, own_head=own_head))

    def experts(self) -> Scores:
        """Evaluate every expert on its own task."""
        return self._scores(self._answers_of_experts())

    def base(self) -> Scores:
        """Evaluate the base with its own head; None for tasks without a fitting head."""
        fitting = {task: rows for task, rows in self._rows.items() if self._model.experts.head_of_base[task]}
        scores: Scores = dict.fromkeys([*self._rows, MEAN])
        if fitting:
            zero = uniform(self._model, 0.0)
            scores |= Evaluation(self._model, fitting, self._size).merged(zero, own_head=False)
        return scores if len(fitting) == len(self._rows) else {**scores, MEAN: None}

    def _answers_of_experts(self) -> Iterator[Answer]:
        for task, rows in self._rows.items():
            yield from self._answers_of_expert(task, rows)

    def _answers_of_expert(self, task: str, rows: Rows) -> Iterator[Answer]:
        return expert_of(self._model, task).outputs(rows.batches(self._size))

    def _scores(self, answers: Iterable[Answer]) -> Scores:
        metrics: dict[str, Metric] = {}
        for task, batch, outputs in answers:
            if batch.labels is None:
                raise ConfigError(
                    f"{task}: expected evaluation rows with labels, found none. Add labels, or leave out this task's "
                    "evaluation."
                )
            if task not in metrics:
                metrics[task] = _metric(outputs.logits).to(outputs.logits.device)
            metrics[task].update(outputs.logits, batch.labels)
        values = {task: _value(metrics[task]) for task in self._rows}
        return {**values, MEAN: mean(values)}


def mean(values: Mapping[str, float]) -> float:
    """Compute the mean over tasks.

    Example:
        >>> mean({"a": 1.0, "b": 3.0})
        2.0
    """
    return sum(values.values()) / len(values)


def relative(scores: Scores, experts: Scores, higher_is_better: bool) -> Scores:
    """Compute scores in % of the expert's own, higher is better: 100·s/e, or 100·e/s if lower scores are better.

    Args:
        scores: s by task.
        experts: e, each expert's score on its own task.
        higher_is_better: True for accuracy, false for perplexity.

    Returns:
        Percentage by task; None if one of the two is missing.

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
