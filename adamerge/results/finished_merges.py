"""Merges that need no learning, measured on held-out rows beside the learned one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from adamerge.calibration.agreement import HeldOut
from adamerge.calibration.race import race
from adamerge.calibration.row_scores import RowScores
from adamerge.experts.experts import KEEP
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.results.evaluate import MEAN, SCALES
from adamerge.types import Coefficients

Criterion: TypeAlias = Literal["divergence", "agreement"]
"""What merges are compared by on held-out rows."""

FEWEST = 8
"""Rows per task on which all scales of task arithmetic are judged."""


class Candidate(NamedTuple):
    """A merge: a model, and the coefficients (G, K) to merge with."""

    model: MergedModel
    coefficients: Coefficients


@dataclass(frozen=True)
class Finished:
    """Merges of untransformed task vectors added to the base.

    Attributes:
        merges: average, task_arithmetic (0.3) and, if there are held-out rows, task_arithmetic_tuned.
        scale: The scale of the latter.
    """

    merges: Mapping[str, Candidate]
    scale: float | None


def plain_model(model: MergedModel, changed: Sequence[str]) -> MergedModel:
    """Build the model of untransformed task vectors and of one coefficient per expert, whatever `model` learns.

    Args:
        model: Experts, rounding and execution.
        changed: Parameters in which experts differ from the base.
    """
    vectors = task_vectors(
        model.experts, changed, resident=False, dtype=model.vectors.dtype, device=model.vectors.device
    )
    return MergedModel(model.experts, vectors, task_wise(tuple(changed)), model.rounding, model.blocks)


def finished_merges(plain: MergedModel, held_out: HeldOut, by: Criterion, scale: float | None = None) -> Finished:
    """Build average and task arithmetic, and find the latter's scale.

    Args:
        plain: Result of `plain_model`.
        held_out: Held-out rows and the experts' predictions; may be empty.
        by: What the scale is chosen by.
        scale: The scale, if it is known already.
    """
    merges = {
        "average": Candidate(plain, uniform(plain, 1 / len(plain.vectors.experts))),
        "task_arithmetic": Candidate(plain, uniform(plain, 0.3)),
    }
    if not held_out:
        return Finished(merges, None)
    scale = tuned_scale(plain, held_out, by) if scale is None else scale
    return Finished({**merges, "task_arithmetic_tuned": Candidate(plain, uniform(plain, scale))}, scale)


def tuned_scale(model: MergedModel, held_out: HeldOut, by: Criterion) -> float:
    """Find the scale of task arithmetic that is best on held-out rows.

    θ₀ + s·Σₖ τₖ for s in 0.1, 0.2, … 1.0, of which the better half is judged on twice as many rows, and so on (see
    `race`); the smallest of equal ones is returned.

    Args:
        model: The experts and their task vectors.
        held_out: Held-out rows and the experts' predictions on them.
        by: Highest agreement, or lowest divergence.

    Reference:
        Ilharco et al., Editing Models with Task Arithmetic, 2023; there s is chosen on labeled rows.
    """
    scales = {str(scale): scale for scale in SCALES}
    rounds = race(
        [*scales],
        lambda scale, rows: -merit(held_out.first(rows).judge(model, uniform(model, scales[scale])), by),
        first=FEWEST,
        most=max(map(len, held_out.rows.values())),
        seed=None,
    )
    return scales[next(iter(rounds[-1].divergence))]


def merit(scores: Mapping[str, RowScores], by: Criterion) -> float:
    """Compute a number that is higher for the better merge: the mean over tasks of agreement or −divergence.

    Where the base is a teacher, it counts in the mean as much as `keep.weight` says. A divergence that is not a number
    is the worst.
    """
    values = [own.agreement if by == "agreement" else -own.divergence for own in scores.values()]
    weights = [own.weight for own in scores.values()]
    weighted = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
    return -math.inf if any(map(math.isnan, values)) else weighted


def of_experts(scores: Mapping[str, RowScores]) -> Mapping[str, RowScores]:
    """Leave out the base's rows, unless there are no others."""
    return {task: own for task, own in scores.items() if task != KEEP} or scores


def by_task(scores: Mapping[str, RowScores], by: Criterion) -> dict[str, float | None]:
    """Return agreement or divergence by task, and their mean over the experts; None instead of what is not finite."""
    values = {task: own.agreement if by == "agreement" else own.divergence for task, own in scores.items()}
    found = {**values, MEAN: abs(merit(of_experts(scores), by))}
    return {key: value if math.isfinite(value) else None for key, value in found.items()}
