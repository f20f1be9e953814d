"""Comparison of the learned merge with base, experts, average and task arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from adamerge.calibration.agreement import HeldOut
from adamerge.calibration.row_scores import RowScores
from adamerge.data.rows import Rows
from adamerge.merging.merged_model import MergedModel
from adamerge.results.candidates import CANDIDATES
from adamerge.results.evaluate import MEAN, Evaluation, Scores, batches_of, relative
from adamerge.results.evaluation_progress import counting
from adamerge.results.finished_merges import Candidate, Criterion, by_task, finished_merges, plain_model
from adamerge.results.guard import Guarded
from adamerge.results.measures import OWN, Measure, common_unit, one_metric
from adamerge.results.no_labels import verdict
from adamerge.results.written import written_model
from adamerge.types import Coefficients


@dataclass(frozen=True)
class Comparison:
    """Scores and agreement of each candidate.

    Attributes:
        scores: Scores by candidate (base, expert, average, task_arithmetic, task_arithmetic_tuned, learned) and task.
        agreement: Share of held-out predictions equal to the expert's, by candidate and task.
        measures: The metric of each task.
        tuned_scale: Best scale of task arithmetic on held-out rows, if it was measured.
        judged: Agreement and divergence of each held-out row, by candidate (and the centre's, if it is a merge) and
            task.
        by: What the scale was chosen by.
        flattered: Tasks whose held-out rows chose step or scale too.
        notes: What the user should know of the scores.
    """

    scores: Mapping[str, Scores]
    agreement: Mapping[str, Mapping[str, float | None]]
    measures: Mapping[str, Measure]
    tuned_scale: float | None
    judged: Mapping[str, Mapping[str, RowScores]] = field(default_factory=dict[str, Mapping[str, RowScores]])
    by: Criterion = "divergence"
    flattered: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Name of the metric; mixed if tasks have several."""
        return one_metric({task: one.key for task, one in self.measures.items()})

    @property
    def measured(self) -> bool:
        """Whether labeled rows were evaluated."""
        return any(value is not None for scores in self.scores.values() for value in scores.values())

    @property
    def unit(self) -> str:
        """The metric, its unit and its direction as text."""
        return common_unit(self.measures.values())

    @property
    def labels(self) -> dict[str, str]:
        """Names of tasks in tables: with the metric, if tasks have several."""
        return {task: f"{task} ({one.unit})" for task, one in self.measures.items()} if self.unit == OWN else {}

    def relative(self) -> dict[str, Scores]:
        """Compute scores in % of each expert's own score."""
        tasks = [task for task in self.scores["expert"] if task != MEAN]
        higher = {task: task not in self.measures or self.measures[task].higher for task in tasks}
        return {key: relative(scores, self.scores["expert"], higher) for key, scores in self.scores.items()}

    def as_json(self) -> dict[str, object]:
        """Return the content of metrics.json: the candidates and the other values on one level."""
        beside = {
            "agreement": self.agreement,
            "divergence": {key: by_task(own, "divergence") for key, own in self.judged.items()},
            "verdict": verdict(self.judged, self.by, self.flattered) if self.judged else None,
            "metric": self.metric,
            "metrics": {task: one.key for task, one in self.measures.items()},
            "higher_is_better": {task: one.higher for task, one in self.measures.items()},
            "task_arithmetic_scale": self.tuned_scale,
            "task_arithmetic_scale_by": self.by if self.tuned_scale is not None else None,
        }
        return {**finite(self.scores), "percent_of_expert": finite(self.relative()), **beside}


def finite(scores: Mapping[str, Scores]) -> dict[str, Scores]:
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
    by: Criterion = "divergence",
    guarded: Guarded | None = None,
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
        by: What the scale of task arithmetic is chosen by on held-out rows.
        guarded: What the guard measured on the same rows.

    Returns:
        Scores and agreement of each candidate.
    """
    plain = plain_model(model, changed)
    finished = finished_merges(plain, held_out, by, guarded.scale if guarded else None)
    candidates = dict(finished.merges)
    candidates["learned"] = Candidate(*written_model(model, written)) if written else Candidate(model, learned)
    judged: dict[str, Mapping[str, RowScores]] = {}
    if held_out:
        compared = {**candidates, **(guarded.candidates if guarded else {}), "learned": candidates["learned"]}
        known = guarded.scores if guarded and not held_out.fresh else {}  # of the rows that chose
        judged = {
            key: known[key] if key in known and key != "learned" else held_out.judging.judge(*candidate)
            for key, candidate in compared.items()
        }
    scores: dict[str, Scores] = {key: dict.fromkeys([*(rows or model.tasks), MEAN]) for key in CANDIDATES}
    measures, notes = dict[str, Measure](), tuple[str, ...]()
    if rows:
        each = {task: batches_of(one, held_out.size) for task, one in rows.items()}
        of_base = sum(count for task, count in each.items() if model.experts.head_of_base[task])
        with counting(console, of_base + (1 + len(candidates)) * sum(each.values())) as tick:
            own = Evaluation(plain, rows, held_out.size, tick)
            scores |= {"base": own.base(), "expert": own.experts()}
            for key, (candidate, coefficients) in candidates.items():
                scores[key] = Evaluation(candidate, rows, held_out.size, tick).merged(coefficients)
        measures, notes = own.measures, own.notes
        for note in notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    agreement = {key: by_task(own, "agreement") for key, own in judged.items()}
    return Comparison(scores, agreement, measures, finished.scale, judged, by, held_out.flattered, notes)
