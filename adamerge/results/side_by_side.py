"""Several runs side by side: what differs in their settings, scores, coefficients and costs."""

from collections.abc import Callable, Iterator, Sequence

from adamerge.results.evaluate import MEAN
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


def _scores(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    tasks = [*dict.fromkeys(task for run in runs for task in run.tasks), MEAN]
    measures: list[tuple[str, Callable[[SeenRun, str], float | None]]] = [
        ("Scores of the merges", lambda run, task: run.scores.get("learned", {}).get(task)),
        ("Agreement with the experts, %", lambda run, task: _percent(run.agreement.get("learned", {}).get(task))),
    ]
    for title, of in measures:
        values = [[of(run, task) for run in runs] for task in tasks]
        if all(own is None for row in values for own in row):
            continue
        rows = [
            [Cell(task), *(number(own, 1) for own in row), *(number(own, 1) for own in _differences(runs, task, row))]
            for task, row in zip(tasks, values, strict=True)
        ]
        units = {run.unit for run in runs} if title.startswith("Scores") else {"agreement"}
        differences = [f"{run.name} − {runs[0].name}" for run in runs[1:]]
        yield Grid(f"{title} ({'; '.join(sorted(units))})", ["task", *(run.name for run in runs), *differences], rows)


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
