"""Tables of the numbers behind a report's pictures: learning, coefficients, task vectors."""

from collections.abc import Iterator, Sequence

import torch

from adamerge.results.aggregate import Aggregate, depth_of_group, kind_of_module
from adamerge.results.grids import Cell, Grid, number
from adamerge.results.pictures import CURVES, cosines_of, pairs_of
from adamerge.results.seen_run import SeenRun

_MOST_CELLS = 60_000
"""Coefficients up to which a page lists every one."""
_MOST_STEPS = 20


def learning(run: SeenRun) -> Iterator[Grid]:
    """List what was measured while learning; of many steps some, evenly spaced, and the best iterate."""
    history, best = run.history, run.metrics.get("best_step", 0)
    if len(history) < 2:
        return
    drawn = [curve for curve in CURVES if any(curve.key in entry for entry in history)]
    chosen = _spaced(len(history)) | {place for place, entry in enumerate(history) if entry["step"] == best}
    rows = [
        [
            Cell(f"{entry['step']:.0f}" + " (best)" * (entry["step"] == best), entry["step"]),
            *(number(entry.get(curve.key), 1 if curve.factor == 100 else 4, curve.factor) for curve in drawn),
            *(number(entry[key]) for key in ("c_min", "c_max")),
        ]
        for entry in (history[place] for place in sorted(chosen))
    ]
    part = f"{len(rows)} of {len(history)} measurements. " if len(rows) < len(history) else ""
    note = f"{part}{'; '.join(f'{curve.axis}: {curve.label}' for curve in drawn)}."
    header = ["step", *(curve.axis for curve in drawn), "smallest coefficient", "largest"]
    yield Grid("Learning in numbers", header, rows, note, folded=True)


def _spaced(count: int) -> set[int]:
    """Choose places that are evenly spaced, the first and the last among them."""
    shown = min(count, _MOST_STEPS)
    return {round(place * (count - 1) / (shown - 1)) for place in range(shown)}


def coefficients(run: SeenRun) -> Iterator[Grid]:
    """Sum the coefficients up by block and by kind of module, and list every one if they are not too many."""
    table, groups, experts = run.table.coefficients, run.table.grouping.groups, run.table.experts
    for title, label in (("by block", depth_of_group), ("by kind of module", kind_of_module)):
        parts = Aggregate(table, groups, label)
        if not 1 < len(parts) < len(groups):
            continue
        rows = [
            [Cell(name), number(count, 0), *(number(value) for value in mean), number(low), number(high)]
            for name, count, mean, low, high in zip(
                parts.labels,
                parts.counts,
                parts.mean.tolist(),
                parts.low.amin(1).tolist(),
                parts.high.amax(1).tolist(),
                strict=True,
            )
        ]
        yield Grid(
            f"Mean coefficient {title}", [title[3:], "groups", *experts, "smallest", "largest"], rows, folded=True
        )
    if table.numel() <= _MOST_CELLS:
        rows = [[Cell(name), *(number(own) for own in row)] for name, row in zip(groups, table.tolist(), strict=True)]
        yield Grid("Every coefficient", ["group", *experts], rows, folded=True)


def norms(run: SeenRun) -> Iterator[Grid]:
    """List the norms of the task vectors by block."""
    found = run.facts.get("task_vectors", {})
    if found.get("depths"):
        rows = [
            [Cell(depth), *(number(gram[k][k] ** 0.5) for k in range(len(found["tasks"])))]
            for depth, gram in zip(found["depths"], found["grams"], strict=True)
        ]
        yield Grid("‖expert − base‖ by block", ["block", *found["tasks"]], rows, folded=True)


def cosines(run: SeenRun) -> Iterator[Grid]:
    """List the cosines of all pairs of task vectors, and their range by block."""
    found = run.facts.get("task_vectors", {})
    tasks: Sequence[str] = found.get("tasks", [])
    if len(tasks) < 2 or not found.get("depths"):
        return
    grams = torch.tensor(found["grams"], dtype=torch.float64)  # (A, K, K)
    whole = cosines_of(grams.sum(0, keepdim=True))[0].tolist()
    rows = [[Cell(task), *(number(value, 2) for value in row)] for task, row in zip(tasks, whole, strict=True)]
    yield Grid("Cosines of task vectors, whole model", ["expert", *tasks], rows, folded=True)
    pairs = pairs_of(cosines_of(grams))  # (A, pairs)
    ranges = zip(pairs.mean(1).tolist(), pairs.amin(1).tolist(), pairs.amax(1).tolist(), strict=True)
    rows = [[Cell(d), *(number(value, 2) for value in own)] for d, own in zip(found["depths"], ranges, strict=True)]
    yield Grid("Cosines of pairs by block", ["block", "mean", "smallest", "largest"], rows, folded=True)
