"""Coefficients of several runs side by side: of what all have, and what one alone has."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from adamerge.results.sections import Cell, Grid, number
from adamerge.results.seen_run import SeenRun, transform_in
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
    same = first.table.grouping.groups == run.table.grouping.groups
    then, now = (own.table.by_group() if same else own.table.by_parameter() for own in (first, run))
    names = [name for name in then if name in now]
    columns = [name for name in first.table.experts if name in run.table.experts]
    if reason := _reason(first, run, names, columns):
        return [*[Cell("–")] * 3, Cell(f"nothing: {reason}")]
    one, other = (_part(own, names, at) for own, at in ((then, _places(first, columns)), (now, _places(run, columns))))
    apart = (other - one).abs()
    where, column = divmod(int(apart.argmax()), len(columns))
    what = f"{len(names)} {'groups' if same else 'parameters (means over their groups)'}"
    every = len(columns) == len(first.table.experts) == len(run.table.experts) and len(names) == len(then) == len(now)
    compared = f"all {what}" if every else f"{what} of {', '.join(columns)}"
    place = Cell(f"{names[where]}: {columns[column]}")
    return [number(float(apart.mean()), 4), number(float(apart.max()), 4), place, Cell(compared)]


def _reason(first: SeenRun, run: SeenRun, names: Sequence[str], columns: Sequence[str]) -> str:
    """Say why nothing can be compared; empty if something can."""
    then, now = _factors(first), _factors(run)
    if then != now:
        return f"factors of other task vectors ({then}; {now})"
    if not columns:
        return "no expert in common"
    return "" if names else "no parameter in common"


def _factors(run: SeenRun) -> str:
    """Say what a run's coefficients are factors of: the transform of its task vectors, and their centre."""
    name = transform_in(run.settings)
    return f"{name} over {run.centre}" if name and not run.table.plain else f"over {run.centre}"


def _places(run: SeenRun, columns: Sequence[str]) -> list[int]:
    return [run.table.experts.index(name) for name in columns]


def _part(rows: Mapping[str, Coefficients], names: Sequence[str], columns: Sequence[int]) -> Coefficients:
    return torch.stack([rows[name] for name in names])[:, columns]


def _means(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    """Write every column's mean over the groups of each run; a dash where a run has no such column."""
    names = list(dict.fromkeys(name for run in runs for name in run.table.experts))
    means = [dict(zip(run.table.experts, run.table.coefficients.mean(0).tolist(), strict=True)) for run in runs]
    rows = [[Cell(name), *(number(own.get(name), 4) for own in means)] for name in names]
    yield Grid("Mean coefficients", ["of", *(run.name for run in runs)], rows)
