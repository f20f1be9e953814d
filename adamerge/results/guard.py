"""The guard: what is exported is not worse on held-out rows than a finished merge that could have been taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adamerge.calibration.agreement import HeldOut
from adamerge.calibration.row_scores import RowScores
from adamerge.experts.experts import KEEP
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.results.candidates import IN_WORDS
from adamerge.results.finished_merges import Candidate, Criterion, by_task, finished_merges, merit, plain_model
from adamerge.results.kept_base import from_base, included, shown

FALLS = 0.05
"""Agreement by which a task may be below another merge before the user is warned."""


@dataclass(frozen=True, eq=False)
class Guarded:
    """The best of the learned merge and of the finished merges, on held-out rows.

    Attributes:
        taken: Name of the best: learned, centre, average, task_arithmetic or task_arithmetic_tuned.
        candidates: What was compared, by name.
        plain: Whether its coefficients are of untransformed task vectors added to the base, and not of what was learned
            on.
        scores: Scores on held-out rows by candidate and task.
        by: What they were compared by.
        scale: Scale of task_arithmetic_tuned.
    """

    taken: str
    candidates: Mapping[str, Candidate]
    plain: bool
    scores: Mapping[str, Mapping[str, RowScores]]
    by: Criterion
    scale: float | None

    @property
    def best(self) -> Candidate:
        """The best of them."""
        return self.candidates[self.taken]

    def lines(self) -> list[str]:
        """Say what was compared, what is exported, and which tasks another candidate would serve better."""
        far = {key: f" ({shown(value)} from the base)" for key, value in from_base(self.scores).items()}
        values = {key: _shown(merit(own, self.by), self.by) for key, own in self.scores.items()}
        each = [f"{IN_WORDS[key]} {value}{far.get(key, '')}" for key, value in values.items()]
        rows = f"held-out rows{included(self.scores[self.taken])}"
        line = f"guard: {self.by} on {rows}: {', '.join(each)}; exported: {IN_WORDS[self.taken]}"
        if self.taken == "learned":
            return [line, *self._falls()]
        how = f" ({self._how()})"
        return [f"warning: {line}{how}, because no learned iterate is better", *self._falls()]

    def as_json(self) -> dict[str, object]:
        """Return what metrics.json and recipe.json say."""
        return {
            "taken": self.taken,
            "by": self.by,
            "coefficients": "as learned" if self.taken == "learned" else self._how(),
            "divergence": {key: by_task(own, "divergence") for key, own in self.scores.items()},
            "agreement": {key: by_task(own, "agreement") for key, own in self.scores.items()},
        }

    def _how(self) -> str:
        value = self.best.coefficients.flatten()[0].item()
        where = "over the base, with plain task vectors" if self.plain else "over the centre that was learned on"
        return f"every coefficient {value:.4g} {where}"

    def _falls(self) -> list[str]:
        mine, found = self.scores[self.taken], list[str]()
        for task, own in mine.items():
            other = max(self.scores, key=lambda key: self.scores[key][task].agreement)
            above = self.scores[other][task].agreement
            if above - own.agreement > FALLS:
                teacher, key = ("the base", "keep.weight") if task == KEEP else ("its expert", f"loss_weight of {task}")
                found.append(
                    f"warning: {task}: the exported merge agrees with {teacher} on {100 * own.agreement:.1f} % of "
                    f"held-out rows, {IN_WORDS[other]} on {100 * above:.1f} %; a larger {key} shifts this"
                )
        return found


def guard(
    learned: Candidate,
    changed: Sequence[str],
    held_out: HeldOut,
    by: Criterion,
    feasible: FeasibleSet,
    *,
    centre: bool,
    transformed: bool,
) -> Guarded:
    """Compare the learned merge with finished merges, all rounded as they would be written, and take the best.

    Only merges whose coefficients the feasible set contains are compared. Of equal ones the learned merge is taken.

    Args:
        learned: What was learned.
        changed: Parameters in which experts differ from the base.
        held_out: Held-out rows, at least one.
        by: What merges are compared by.
        feasible: Set of allowed coefficients.
        centre: Whether the centre is a merge and not the base.
        transformed: Whether the task vectors are transformed.
    """
    finished = finished_merges(plain_model(learned.model, changed), held_out, by)
    own_axes = not centre and not transformed and learned.model.vectors.experts == learned.model.tasks
    rivals = {key: _on_axes(one, learned.model) if own_axes else one for key, one in finished.merges.items()}
    if centre:
        rivals["centre"] = Candidate(learned.model, uniform(learned.model, 0.0))
    allowed = {key: one for key, one in rivals.items() if feasible.contains(one.coefficients)}
    candidates = {"learned": learned, **allowed}
    scores = {key: held_out.judge(*one) for key, one in candidates.items()}
    taken = max(scores, key=lambda key: (merit(scores[key], by), key == "learned"))
    plain = not own_axes and taken not in ("learned", "centre")
    return Guarded(taken, candidates, plain, scores, by, finished.scale)


def _on_axes(one: Candidate, model: MergedModel) -> Candidate:
    """Return the same merge as coefficients of the model that was learned on."""
    return Candidate(model, uniform(model, one.coefficients.flatten()[0].item()))


def _shown(value: float, by: Criterion) -> str:
    return f"{-value:.4g}" if by == "divergence" else f"{100 * value:.1f} %"
