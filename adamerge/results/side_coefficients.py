"""Coefficients of several runs side by side: of what all have, and what one alone has."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from adamerge.results.factors import Factors, apart
from adamerge.results.grids import Cell, Grid, number
from adamerge.results.seen_run import SeenRun
from adamerge.types import Coefficients


def coefficients(runs: Sequence[SeenRun]) -> Iterator[Grid]:
    """Compare coefficients with those of the first run, and show every run's means.

    Groups of the same names are compared as they are; of other groups, the means of every parameter that both have.
    Columns are compared by name. Over another centre, or with another transform, or with other options of these,
    coefficients are factors of other task vectors, and are not compared; nor are columns of merges beside the experts
    that have other options.

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
    both = [name for name in first.table.experts if name in run.table.experts]
    columns = [name for name in both if not _other_beside(first, run, name)]
    others = [f"{name} ({'; '.join(_other_beside(first, run, name))})" for name in both if name not in columns]
    if reason := _reason(first, run, names, columns):
        return [*[Cell("–")] * 3, Cell(f"nothing: {reason}")]
    one, other = (_part(own, names, at) for own, at in ((then, _places(first, columns)), (now, _places(run, columns))))
    apart = (other - one).abs()
    where, column = divmod(int(apart.argmax()), len(columns))
    what = f"{len(names)} {'groups' if same else 'parameters (means over their groups)'}"
    every = len(columns) == len(first.table.experts) == len(run.table.experts) and len(names) == len(then) == len(now)
    compared = f"all {what}" if every else f"{what} of {', '.join(columns)}"
    compared += f"; not of other merges: {', '.join(others)}" if others else ""
    place = Cell(f"{names[where]}: {columns[column]}")
    return [number(float(apart.mean()), 4), number(float(apart.max()), 4), place, Cell(compared)]


def _reason(first: SeenRun, run: SeenRun, names: Sequence[str], columns: Sequence[str]) -> str:
    """Say why nothing can be compared; empty if something can."""
    then, now = first.factors, run.factors
    transform, centre = apart(then.transform, now.transform), apart(then.centre, now.centre)
    if transform or centre:
        each = [_in_words(own, transform, centre, k) for k, own in enumerate((then, now))]
        return f"factors of other task vectors ({'; '.join(each)})"
    if not columns:
        return "no expert in common"
    return "" if names else "no parameter in common"


def _in_words(own: Factors, transform: tuple[str, str] | None, centre: tuple[str, str] | None, k: int) -> str:
    """Say what the coefficients of one of two runs are factors of, with the options that differ."""
    of = "" if own.transform is None else transform[k] if transform else own.transform.name
    return " ".join(filter(None, [of, f"over {centre[k] if centre else own.centre.name}"]))


def _other_beside(first: SeenRun, run: SeenRun, column: str) -> tuple[str, ...]:
    """Say how the merges of a column differ; empty for experts, and for the same merge."""
    return apart(first.factors.beside.get(column), run.factors.beside.get(column)) or ()


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
