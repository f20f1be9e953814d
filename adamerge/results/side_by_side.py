"""Several runs side by side: what differs in their settings, scores, coefficients and costs."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from adamerge.experts.experts import KEEP
from adamerge.results.evaluate import MEAN
from adamerge.results.measures import score_text
from adamerge.results.sections import Cell, Grid, Section, number
from adamerge.results.seen_run import SeenRun
from adamerge.results.verdict import verdict

_PLACES = ("run_dir",)
"""Settings that always differ and say nothing."""


def compared(runs: Sequence[SeenRun]) -> Section:
    """Compare runs: verdicts, scores by task, settings that differ, coefficients, costs.

    Args:
        runs: At least two; the first is what the others are compared with.
    """
    text = [f"{run.name}: {verdict(run)}" for run in runs]
    return Section("Side by side", text, [*_scores(runs), *_settings(runs), *_coefficients(runs), *_costs(runs)])


class _Measure(NamedTuple):
    """A number of each task of a run.

    Attributes:
        title: What it is.
        units: Its units.
        of: Takes it from a run.
        digits: Digits after the point; None for scores that are no percentages, which have more where they are small.
    """

    title: str
    units: Sequence[str]
    of: Callable[[SeenRun, str], float | None]
    digits: int | None = 1


def _scores(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    tasks = [*dict.fromkeys(task for run in runs for task in run.tasks), MEAN]
    with_base = [*tasks[:-1], *([KEEP] if any(run.from_base for run in runs) else []), MEAN]
    units = sorted({run.unit for run in runs})
    digits = 1 if all(run.percent(MEAN) for run in runs) else None
    yield from _grid(runs, tasks, _Measure("Scores of the merges", units, _score, digits))
    yield from _grid(runs, with_base, _Measure("Agreement with the experts, %", ["agreement"], _agreement))
    if KEEP in with_base:
        yield from _grid(runs, with_base, _Measure("Divergence from the experts", ["nats"], _divergence, 4))


def _grid(runs: Sequence[SeenRun], tasks: Sequence[str], measure: _Measure) -> Iterator[Grid]:
    values = [[measure.of(run, task) for run in runs] for task in tasks]
    if all(own is None for row in values for own in row):
        return
    rows = [
        [Cell(task), *(_written(own, measure.digits) for own in (*row, *_differences(runs, task, row)))]
        for task, row in zip(tasks, values, strict=True)
    ]
    header = ["task", *(run.name for run in runs), *(f"{run.name} − {runs[0].name}" for run in runs[1:])]
    yield Grid(f"{measure.title} ({'; '.join(measure.units)})", header, rows)


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


def _differences(runs: Sequence[SeenRun], task: str, row: Sequence[float | None]) -> Iterator[float | None]:
    """Take the first run's value from those of the others; means over other tasks are not compared."""
    for run, own in zip(runs[1:], row[1:], strict=True):
        alike = task != MEAN or set(run.tasks) == set(runs[0].tasks)
        yield _minus(own, row[0]) if alike else None


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _settings(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    keys = list(dict.fromkeys(key for run in runs for key in run.settings if key not in _PLACES))
    found = {key: [_shown(run, key) for run in runs] for key in keys}
    rows = [[Cell(key), *map(Cell, own)] for key, own in found.items() if len(set(own)) > 1]
    if rows:
        yield Grid("Settings that differ", ["key", *(run.name for run in runs)], rows)


def _shown(run: SeenRun, key: str) -> str:
    return "–" if key not in run.settings else "null" if run.settings[key] is None else str(run.settings[key])


def _coefficients(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    first, rows = runs[0], list[list[Cell]]()
    for run in runs[1:]:
        same = run.table.grouping.groups == first.table.grouping.groups and run.table.experts == first.table.experts
        if same and run.table.centre == first.table.centre:
            apart = (run.table.coefficients - first.table.coefficients).abs()
            where = first.table.grouping.groups[int(apart.amax(1).argmax())]
            rows.append([Cell(run.name), number(float(apart.mean()), 4), number(float(apart.max()), 4), Cell(where)])
        else:
            rows.append([Cell(run.name), Cell("–"), Cell("–"), Cell("other groups, experts or centre")])
    header = ["run", "mean |difference|", "largest |difference|", "in group"]
    yield Grid(f"Coefficients against {first.name}", header, rows)


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
