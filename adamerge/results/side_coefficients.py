"""Coefficients of several runs side by side: of what all have, and what one alone has."""

from collections.abc import Iterator, Sequence

import torch

from adamerge.merging.coefficients import Table
from adamerge.results.sections import Cell, Grid, number
from adamerge.results.seen_run import SeenRun
from adamerge.types import Coefficients


def coefficients(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    """Compare coefficients with those of the first run, and show every run's means.

    Groups of the same names are compared as they are; of other groups, the means of every parameter that both have.
    Columns are compared by name. Over another centre, or with another transform, coefficients are factors of other task
    vectors, and are not compared.

    Args:
        runs: At least two; the first is what the others are compared with.
    """
    first, *others = runs
    header = ["run", "mean |difference|", "largest |difference|", "in", "compared"]
    rows = [[Cell(run.name), *_differences(first, run)] for run in others]
    yield Grid(f"Coefficients against {first.name}", header, rows)
    yield from _means(runs)


def _differences(first: SeenRun, run: SeenRun) -> list[Cell]:
    """Write the differences of what two runs have in common, and what that is."""
    columns = [name for name in first.table.experts if name in run.table.experts]
    what, then, now = _rows(first.table, run.table)
    names = [name for name in then if name in now]
    if _factors(first) != _factors(run) or not columns or not names:
        return [*[Cell("–")] * 3, Cell(_reason(first, run, columns))]
    one, other = (_part(table, own, names, columns) for table, own in ((first.table, then), (run.table, now)))
    apart = (other - one).abs()
    where, column = divmod(int(apart.argmax()), len(columns))
    every = len(columns) == len(first.table.experts) == len(run.table.experts) and len(names) == len(then) == len(now)
    compared = f"all {len(names)} {what}" if every else f"{len(names)} {what} of {', '.join(columns)}"
    place = Cell(f"{names[where]}: {columns[column]}")
    return [number(float(apart.mean()), 4), number(float(apart.max()), 4), place, Cell(compared)]


def _reason(first: SeenRun, run: SeenRun, columns: Sequence[str]) -> str:
    if _factors(first) != _factors(run):
        return f"nothing: factors of other task vectors ({_factors(first)}; {_factors(run)})"
    return "nothing: no parameter in common" if columns else "nothing: no expert in common"


def _factors(run: SeenRun) -> str:
    """Say what a run's coefficients are factors of: the transform of its task vectors, and their centre."""
    given = run.settings.get("task_vectors", run.settings.get("task_vectors.class_path"))
    name = str(given or "").rpartition(".")[2]
    return f"{name} over {run.centre}" if name and not run.table.plain else f"over {run.centre}"


def _rows(one: Table, other: Table) -> tuple[str, dict[str, Coefficients], dict[str, Coefficients]]:
    """Return the rows of two tables by name: of groups if these are the same, otherwise means of parameters."""
    if one.grouping.groups == other.grouping.groups:
        then, now = (dict(zip(own.grouping.groups, own.coefficients, strict=True)) for own in (one, other))
        return "groups", then, now
    then, now = (
        {name: own.coefficients[rows].mean(0) for name, rows in own.grouping.rows.items()} for own in (one, other)
    )
    return "parameters (means over their groups)", then, now


def _part(table: Table, rows: dict[str, Coefficients], names: Sequence[str], columns: Sequence[str]) -> Coefficients:
    taken = [table.experts.index(name) for name in columns]
    return torch.stack([rows[name] for name in names])[:, taken]


def _means(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    """Write every column's mean over the groups of each run; a dash where a run has no such column."""
    names = list(dict.fromkeys(name for run in runs for name in run.table.experts))
    means = [dict(zip(run.table.experts, run.table.coefficients.mean(0).tolist(), strict=True)) for run in runs]
    rows = [[Cell(name), *(number(own.get(name), 4) for own in means)] for name in names]
    yield Grid("Mean coefficients", ["of", *(run.name for run in runs)], rows)
