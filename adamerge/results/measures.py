"""What is measured on labeled rows: names, units and directions of the metrics."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from adamerge.data.questions import Questions
from adamerge.data.rows import Rows
from adamerge.experts.model_kind import ModelKind


class Measure(NamedTuple):
    """A metric.

    Attributes:
        key: Its name in configurations and in metrics.json.
        words: Its name in tables.
        higher: Whether higher is better.
        percent: Whether it is a number from 0 to 100 %.
        share: Whether it is the share of rows that are right, so that its interval follows from their number.
    """

    key: str
    words: str
    higher: bool = True
    percent: bool = True
    share: bool = True

    @property
    def unit(self) -> str:
        """The metric, its unit and its direction."""
        return f"{self.words}{', %' if self.percent else ''}, {'higher' if self.higher else 'lower'} is better"


MEASURES: Mapping[str, Measure] = {
    one.key: one
    for one in (
        Measure("accuracy", "accuracy"),
        Measure("exact_match", "exact match"),
        Measure("rouge", "ROUGE-L", share=False),
        Measure("f1", "F1", share=False),
        Measure("pearson", "Pearson correlation", share=False),
        Measure("spearman", "Spearman correlation", share=False),
        Measure("mse", "mean squared error", higher=False, percent=False, share=False),
        Measure("perplexity", "perplexity", higher=False, percent=False, share=False),
    )
}
"""All metrics by name."""

OWN = "each task's own metric"
"""Unit of scores of several metrics."""


def score_text(value: float, *, percent: bool = False) -> str:
    """Write a score or a difference of scores: one digit after the point; three digits of a small one.

    A mean squared error may be far below 1; percentages have one digit.

    Example:
        >>> score_text(8.125, percent=True), score_text(0.01234), score_text(0.0)
        ('8.1', '0.0123', '0.0')
    """
    small = 0 < abs(value) < 10 and not percent
    return f"{value:.{max(1, 2 - math.floor(math.log10(abs(value)))) if small else 1}f}"


def interval_text(interval: tuple[float, float] | None, *, percent: bool) -> str:
    """Write both ends of an interval as `score_text` writes a score; nothing without one."""
    return f"[{', '.join(score_text(end, percent=percent) for end in interval)}]" if interval else ""


def measure_of(kind: ModelKind, rows: Rows) -> Measure:
    """Return what is measured on a task's rows.

    Args:
        kind: The kind of the task's model.
        rows: Its labeled rows.
    """
    return MEASURES[rows.metric or ("perplexity" if kind.language_model else "accuracy")]


def common_unit(measures: Iterable[Measure]) -> str:
    """Return the unit of scores: that of the only metric, or that there are several.

    Example:
        >>> common_unit([MEASURES["accuracy"]]), common_unit(MEASURES.values())
        ('accuracy, %, higher is better', "each task's own metric")
    """
    found = list(dict.fromkeys(measures))
    return found[0].unit if len(found) == 1 else OWN


def one_metric(metrics: Mapping[str, str]) -> str:
    """Return the name of the metric of all tasks: mixed if there are several, accuracy if nothing was measured.

    Args:
        metrics: Names by task.
    """
    found = list(dict.fromkeys(metrics.values())) or ["accuracy"]
    return found[0] if len(found) == 1 else "mixed"


def comparable(measures: Iterable[Measure]) -> bool:
    """Return whether scores have a mean: they are of one metric, or all in % of what is right."""
    found = set(measures)
    return len(found) == 1 or all(one.percent and one.higher for one in found)


def generated(rows: Mapping[str, Rows]) -> dict[str, Questions]:
    """Return the tasks whose answers are generated."""
    return {task: own for task, own in rows.items() if isinstance(own, Questions)}
