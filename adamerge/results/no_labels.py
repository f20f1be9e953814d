"""A verdict without labels: every candidate on held-out rows, how far they differ, and how sure that is."""

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from adamerge.calibration.row_scores import RowScores
from adamerge.experts.name_patterns import several
from adamerge.results.candidates import IN_WORDS
from adamerge.results.finished_merges import Criterion, merit, of_experts
from adamerge.results.kept_base import from_base, included, sentence, shown

LEVEL = 0.95
DRAWS = 2000

Judged: TypeAlias = Mapping[str, Mapping[str, RowScores]]
"""Scores of every held-out row, by candidate and task."""


class Difference(NamedTuple):
    """How much better one merge is than another.

    Attributes:
        mean: Of divergence or agreement, mean over tasks; above 0 if the first is better.
        low: Lower end of the interval.
        high: Upper end of the interval.
        share: Share of the resamples in which the first is better.
    """

    mean: float
    low: float
    high: float
    share: float


def difference(
    one: Mapping[str, RowScores], other: Mapping[str, RowScores], by: Criterion, *, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Compare two merges by the paired percentile bootstrap: both are measured on the same resampled rows.

    The rows of each task are resampled apart; the statistic is the mean over tasks.

    Args:
        one: Row scores of one merge by task.
        other: Those of the other, on the same rows.
        by: divergence or agreement.
        draws: Number of resamples.
        seed: Random seed.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.3 and 13.3.
    """
    gains = _resampled(one, by, draws, seed) - _resampled(other, by, draws, seed)
    low, high = np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(merit(one, by) - merit(other, by), float(low), float(high), float((gains > 0).mean()))


def _resampled(scores: Mapping[str, RowScores], by: Criterion, draws: int, seed: int) -> NDArray[np.float64]:
    """Compute the merit of every resample, (draws,): higher is better; the same seed draws the same rows."""
    random = np.random.default_rng(seed)
    means = [_of_task(own, by, random, draws) for own in scores.values()]
    return np.average(means, axis=0, weights=[own.weight for own in scores.values()])


def _of_task(own: RowScores, by: Criterion, random: np.random.Generator, draws: int) -> NDArray[np.float64]:
    rows = len(own.predicted)
    times = random.multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(np.float64)  # (draws, N)
    summed = own.same.numpy() if by == "agreement" else -own.diverged.numpy()
    return (times @ summed) / np.maximum(times @ own.predicted.numpy(), 1)


def verdict(judged: Judged, by: Criterion, flattered: Collection[str]) -> str:
    """Say in one sentence which merge is best on held-out rows, and how sure that is.

    Args:
        judged: Scores of every held-out row, by candidate and task; at least two candidates.
        by: What the merges are compared by.
        flattered: Tasks whose rows chose the step or the scale, too.
    """
    merits = {key: merit(own, by) for key, own in judged.items()}
    rounded = {key: float(f"{value:.3g}") for key, value in merits.items()}  # of equal merges, as what is exported
    order = sorted(judged, key=lambda key: (rounded[key], key == "learned", merits[key]), reverse=True)
    best, second = order[:2]
    found = difference(judged[best], judged[second], by)
    value = f"{100 * merits[best]:.1f} %" if by == "agreement" else f"{-merits[best]:.4g} nats"
    worse = f"{_size(max(found.mean, 0.0), by)} worse (95 % interval {_size(found.low, by)} to {_size(found.high, by)})"
    sure = (
        f"better in {100 * found.share:.0f} % of resamples" if found.low > 0 else "so these rows cannot tell them apart"
    )
    rows, of_base = f"held-out rows{included(judged[best])}", sentence(from_base(judged))
    return (
        f"Without labels: best by {by} on {rows} is {_name(best)} ({value}); the next, {_name(second)}, is {worse}, "
        f"{sure}; {_how_chosen(judged[best], flattered)}.{of_base and f' {of_base}'}"
    )


def _how_chosen(scores: Mapping[str, RowScores], flattered: Collection[str]) -> str:
    """Say which rows are of those that chose."""
    if not flattered:
        return "these rows chose nothing"
    same = "the same rows" if len(flattered) == len(scores) else f"those of {several(sorted(flattered))}"
    return f"{same} chose step and scale, which flatters both"


def held_out_table(judged: Judged, by: Criterion) -> Table:
    """Make a table with one line per candidate: divergence, agreement, and the paired difference from what is exported.

    Args:
        judged: Scores of every held-out row, by candidate and task; learned is what is exported.
        by: What the difference is of.
    """
    kept, far = included(judged["learned"]), from_base(judged)
    title = f"held-out rows, mean over tasks (difference from the exported merge by {by}{kept}, 95 % paired bootstrap)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    of_base = ["from the base, nats"] if far else []
    for name in ("merge", "divergence, nats", *of_base, "agreement, %", "difference"):
        table.add_column(name, justify="left" if name == "merge" else "right")
    for key, own in judged.items():
        found = difference(own, judged["learned"], by)
        interval = f"{_signed(found.mean, by)} ({_signed(found.low, by)} to {_signed(found.high, by)})"
        tasks, base = of_experts(own), [shown(far[key])] if far else []
        cells = f"{abs(merit(tasks, 'divergence')):.4g}", *base, f"{100 * merit(tasks, 'agreement'):.1f}"
        table.add_row(_name(key), *cells, "" if key == "learned" else interval, style="bold" * (key == "learned"))
    return table


def _name(key: str) -> str:
    return "the exported merge" if key == "learned" else IN_WORDS.get(key, key)


def _size(value: float, by: Criterion) -> str:
    """Write a difference: nats of divergence, or points of agreement."""
    return f"{100 * value:.1f} points" if by == "agreement" else f"{value:.4g} nats"


def _signed(value: float, by: Criterion) -> str:
    """Write how much better a merge is, with the sign of the measure: of the divergence, less is better."""
    return f"{100 * value:+.1f}" if by == "agreement" else f"{-value:+.4g}"
