"""Several runs side by side: what differs in their settings, scores, coefficients and costs."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from adamerge.experts.experts import KEEP
from adamerge.results.evaluate import MEAN
from adamerge.results.grids import Cell, Grid, number
from adamerge.results.measures import Measure, common_unit, score_text
from adamerge.results.sections import Section
from adamerge.results.seen_run import SeenRun
from adamerge.results.side_coefficients import coefficients
from adamerge.results.verdict import verdict

_PLACES = ("run_dir",)
"""Settings that always differ and say nothing."""
_MODEL = re.compile(r"^models\.(\d+)\.")
_ABSENT = "–"
_NO_VALUE = {_ABSENT, "null", "[]"}
"""What settings are that say nothing: the key that has a value, for example of a class, is in a row of its own."""


def compared(runs: Sequence[SeenRun]) -> Section:
    """Compare runs: verdicts, scores by task, settings that differ, coefficients, costs.

    Args:
        runs: At least two; the first is what the others are compared with.
    """
    text = [f"{run.name}: {verdict(run)}" for run in runs]
    grids = [*_scores(runs), *_settings(runs), *coefficients(runs), *_costs(runs)]
    return Section("Side by side", [*text, *_lacking(runs)], grids)


def _lacking(runs: Sequence[SeenRun]) -> Iterator[str]:
    """Name the tasks of the other runs that a run does not have."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    for run in runs:
        if lacking := [task for task in tasks if task not in run.tasks]:
            yield f"Tasks that {run.name} does not have: {', '.join(lacking)}."


class _Number(NamedTuple):
    """A number of each task of a run.

    Attributes:
        title: What it is, with its unit.
        of: Takes it from a run.
        digits: Digits after the point; None for scores that are no percentages, which have more where they are small.
        measures: Says what is measured on each task of a run, if that may differ.
    """

    title: str
    of: Callable[[SeenRun, str], float | None]
    digits: int | None = 1
    measures: Callable[[SeenRun], Mapping[str, Measure]] | None = None


def _scores(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    tasks = [*dict.fromkeys(task for run in runs for task in run.tasks), MEAN]
    with_base = [*tasks[:-1], *([KEEP] if any(run.from_base for run in runs) else []), MEAN]
    unit = common_unit(own for run in runs if run.scores for own in run.measures.values())
    digits = 1 if all(run.percent(MEAN) for run in runs) else None
    yield from _grid(runs, tasks, _Number(f"Scores of the merges ({unit})", _score, digits, _measures))
    yield from _grid(runs, with_base, _Number("Agreement with the experts, %", _agreement))
    yield from _grid(runs, with_base, _Number("Divergence from the experts, nats", _divergence, 4))


def _grid(runs: Sequence[SeenRun], tasks: Sequence[str], what: _Number) -> Iterator[Grid]:
    """Write a row per task that a run has a number of, and a column of differences per run that has one."""
    found = {task: [what.of(run, task) for run in runs] for task in tasks}
    values = {task: row for task, row in found.items() if any(own is not None for own in row)}
    if not values:
        return
    apart = {task: list(_differences(runs, task, row, what)) for task, row in values.items()}
    shown = [k for k in range(len(runs) - 1) if any(row[k] is not None for row in apart.values())]
    rows = [
        [Cell(name), *(_written(own, what.digits) for own in (*values[task], *(apart[task][k] for k in shown)))]
        for task, name in zip(values, _names(runs, list(values), what), strict=True)
    ]
    rows += _mean_of_shared(runs, values, what, shown)
    header = ["task", *(run.name for run in runs), *(f"{runs[k + 1].name} − {runs[0].name}" for k in shown)]
    yield Grid(what.title, header, rows)


def _mean_of_shared(
    runs: Sequence[SeenRun], values: Mapping[str, Sequence[float | None]], what: _Number, shown: Sequence[int]
) -> Iterator[list[Cell]]:
    """Write a row with each run's mean over the tasks that all have, measured alike, where some lack a task."""
    tasks = [task for task in values if task not in (KEEP, MEAN)]
    shared = {task: [own for own in values[task] if own is not None] for task in tasks if _alike(runs, task, what)}
    full = {task: row for task, row in shared.items() if len(row) == len(runs)}
    if full and len(full) < len(tasks):
        means = [fmean(column) for column in zip(*full.values(), strict=True)]
        apart = (means[k + 1] - means[0] for k in shown)
        name = f"mean of shared tasks ({', '.join(full)})"
        yield [Cell(name), *(_written(own, what.digits) for own in (*means, *apart))]


def _alike(runs: Sequence[SeenRun], task: str, what: _Number) -> bool:
    """Return whether a task's number is of the same metric in all runs."""
    first, *others = (_compared(run, task, what) for run in runs)
    return all(own == first for own in others)


def _names(runs: Sequence[SeenRun], tasks: Sequence[str], what: _Number) -> Iterator[str]:
    """Name the tasks, with what is measured on them if that is not the same on all."""
    each = [what.measures(run) if what.measures else {} for run in runs]
    several = len({measure for own in each for measure in own.values()}) > 1
    for task in tasks:
        units = dict.fromkeys(own[task].unit for own in each if task in own)
        yield f"{task} ({'; '.join(units)})" if several and units else task


def _written(value: float | None, digits: int | None) -> Cell:
    if digits is None and value is not None:
        return Cell(score_text(value), value)
    return number(value, digits or 0)


def _score(run: SeenRun, task: str) -> float | None:
    return run.scores.get("learned", {}).get(task)


def _agreement(run: SeenRun, task: str) -> float | None:
    return _percent(run.agreement.get("learned", {}).get(task))


def _divergence(run: SeenRun, task: str) -> float | None:
    return run.divergence.get("learned", {}).get(task)


def _measures(run: SeenRun) -> Mapping[str, Measure]:
    """Return what was measured on the tasks that have a score."""
    return {task: one for task, one in run.measures.items() if _score(run, task) is not None}


def _differences(
    runs: Sequence[SeenRun], task: str, row: Sequence[float | None], what: _Number
) -> Iterator[float | None]:
    """Take the first run's value from those of the others; other metrics, and means over others, are not compared."""
    first, *others = (_compared(run, task, what) for run in runs)
    for own, value in zip(others, row[1:], strict=True):
        yield _minus(value, row[0]) if own == first else None


def _compared(run: SeenRun, task: str, what: _Number) -> Mapping[str, Measure | None]:
    """Say what a number is of: of which tasks, and by which metric."""
    known = what.measures(run) if what.measures else {}
    tasks = [own for own in run.tasks if what.of(run, own) is not None] if task == MEAN else [task]
    return {own: known.get(own) for own in tasks}


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _settings(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    each = [_by_task(run) for run in runs]
    keys = list(dict.fromkeys(key for own in each for key in own if key not in _PLACES))
    found = {key: [_shown(own, key) for own in each] for key in keys}
    rows = [
        [Cell(key), *map(Cell, own)]
        for key, own in found.items()
        if len(set(own)) > 1 and not _NO_VALUE.issuperset(own)
    ]
    if rows:
        yield Grid("Settings that differ", ["key", *(run.name for run in runs)], rows)


def _by_task(run: SeenRun) -> dict[str, object]:
    """Return a run's settings with a model's task instead of its number, which may be another model's elsewhere."""

    def named(number: re.Match[str]) -> str:
        k = int(number[1])
        given = run.settings.get(f"models.{k}.task") or (run.tasks[k] if k < len(run.tasks) else k)
        return f"models.{given}."

    return {_MODEL.sub(named, key): value for key, value in run.settings.items()}


def _shown(settings: Mapping[str, object], key: str) -> str:
    return _ABSENT if key not in settings else "null" if settings[key] is None else str(settings[key])


def _costs(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    rows = [
        [
            Cell(run.name),
            number(sum(seconds.values()) if (seconds := run.facts.get("seconds")) else None, 1),
            number(max(memory.values()) if (memory := run.facts.get("peak_memory_bytes")) else None, 0, 1e-6),
            number(run.table.coefficients.numel(), 0),
            number(run.metrics.get("best_step"), 0),
        ]
        for run in runs
    ]
    yield Grid("Costs", ["run", "seconds", "peak memory, MB", "coefficients", "best step"], rows)
