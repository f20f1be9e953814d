"""Comparison of the learned merge with base, experts, average and task arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adamerge.calibration.agreement import HeldOut
from adamerge.data.rows import Rows
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.results.evaluate import MEAN, Evaluation, Scores, mean, relative, tuned_scale
from adamerge.results.written import written_model
from adamerge.types import Coefficients

CANDIDATES = ("base", "expert", "average", "task_arithmetic", "task_arithmetic_tuned", "learned")
"""The compared models in display order; all values of a model that was not measured are None."""


@dataclass(frozen=True)
class Comparison:
    """Scores and agreement of each candidate.

    Attributes:
        scores: Scores by candidate (base, expert, average, task_arithmetic, task_arithmetic_tuned, learned) and task.
        agreement: Share of held-out predictions equal to the expert's, by candidate and task.
        metric: accuracy (in %) or perplexity.
        tuned_scale: Scale of task arithmetic with the highest agreement, if it was measured.
    """

    scores: Mapping[str, Scores]
    agreement: Mapping[str, Mapping[str, float]]
    metric: str
    tuned_scale: float | None

    @property
    def measured(self) -> bool:
        """Whether labeled rows were evaluated."""
        return any(value is not None for scores in self.scores.values() for value in scores.values())

    @property
    def unit(self) -> str:
        """The metric and its unit as text."""
        return "accuracy, %" if self.metric == "accuracy" else self.metric

    def relative(self) -> dict[str, Scores]:
        """Compute scores in % of each expert's own score."""
        higher = self.metric == "accuracy"
        return {key: relative(scores, self.scores["expert"], higher) for key, scores in self.scores.items()}

    def as_json(self) -> dict[str, object]:
        """Return the content of metrics.json: the candidates and the other values on one level."""
        beside = {"agreement": self.agreement, "metric": self.metric, "task_arithmetic_scale": self.tuned_scale}
        return {**_finite(self.scores), "percent_of_expert": _finite(self.relative()), **beside}


def _finite(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """Replace infinite values and NaN by None for JSON; the perplexity of a bad merge may be infinite."""
    return {
        key: {task: value if value is not None and math.isfinite(value) else None for task, value in own.items()}
        for key, own in scores.items()
    }


def compare(
    model: MergedModel,
    changed: Sequence[str],
    rows: Mapping[str, Rows],
    held_out: HeldOut,
    learned: Coefficients,
    console: Console,
    written: Path | None = None,
) -> Comparison:
    """Evaluate the learned merge and the models that it is compared with.

    Average and task arithmetic use untransformed task vectors, whatever the learned merge uses. All are measured as
    they would be written: rounded to the dtype on disk.

    Args:
        model: The model on which the coefficients were learned.
        changed: Parameters in which experts differ from the base.
        rows: Labeled rows by task; if empty, only agreement is measured.
        held_out: Held-out rows, the experts' predictions on them, and the number of rows per forward pass.
        learned: The learned coefficients, (G, K).
        console: Prints the status.
        written: Folder of the exported checkpoint, which is then what is measured as learned.

    Returns:
        Scores and agreement of each candidate.
    """
    vectors = task_vectors(
        model.experts, changed, resident=False, dtype=model.vectors.dtype, device=model.vectors.device
    )
    plain = MergedModel(model.experts, vectors, task_wise(changed), model.rounding, model.blocks)
    candidates = {
        "average": (plain, uniform(plain, 1 / len(vectors.experts))),
        "task_arithmetic": (plain, uniform(plain, 0.3)),
    }
    scale = None
    if held_out:
        scale, _ = tuned_scale(plain, held_out)
        candidates["task_arithmetic_tuned"] = (plain, uniform(plain, scale))
    candidates["learned"] = written_model(model, written) if written else (model, learned)
    agreement = {key: _agreement(held_out, *candidate) for key, candidate in candidates.items()} if held_out else {}
    scores: dict[str, Scores] = {key: dict.fromkeys([*model.tasks, MEAN]) for key in CANDIDATES}
    metric = "accuracy"
    if rows:
        with console.status("evaluating"):
            own = Evaluation(plain, rows, held_out.size)
            scores |= {"base": own.base(), "expert": own.experts()}
            for key, (candidate, coefficients) in candidates.items():
                scores[key] = Evaluation(candidate, rows, held_out.size).merged(coefficients)
        metric = own.metric
    return Comparison(scores, agreement, metric, scale)


def _agreement(held_out: HeldOut, model: MergedModel, coefficients: Coefficients) -> dict[str, float]:
    by_task = held_out.agreement(model, coefficients)
    return {**by_task, MEAN: mean(by_task)}
