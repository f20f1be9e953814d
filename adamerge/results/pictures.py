"""Pictures of a report as SVG: curves, coefficients, task vectors; legible at full size and in grey."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from adamerge.results.aggregate import Aggregate, depth_of_group
from adamerge.results.heat_maps import (
    MANY_GROUPS,
    STYLE,
    WIDTH,
    HeatMap,
    common,
    draw,
    heat_maps,
    rounded,
    short,
    size_of,
)
from adamerge.results.seen_run import SeenRun

_LEAST = 72  # of 96 pixels per inch
_MOST_LINES = 8
"""Experts up to which each has a line of its own."""
_STYLES = ("-", "--", "-.", ":")
_MARKERS = "osv^D*Px"


class Picture(NamedTuple):
    """A picture.

    Attributes:
        title: What it shows.
        text: The same for who does not see it.
        svg: The SVG.
        least: Pixels of width to which a narrow window may shrink it; its letters then have nine.
    """

    title: str
    text: str
    svg: str
    least: int = 0

    @property
    def uri(self) -> str:
        """The SVG as a data URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


class _Curve(NamedTuple):
    """What is drawn over the steps: key in the history, name, words of its axis, factor, limits of the axis."""

    key: str
    label: str
    axis: str
    factor: float = 1
    limits: tuple[float, float] = (-math.inf, math.inf)


CURVES = (
    _Curve("loss", "loss of the step, sum over tasks", "loss"),
    _Curve("objective", "objective, held out, mean over tasks", "objective"),
    _Curve("divergence", "divergence, held out, mean over tasks", "divergence, nats"),
    _Curve("agreement", "agreement with the experts, held out", "agreement, %", 100, (-1, 101)),
)
"""What is drawn of the history, in this order."""


def pictures(run: SeenRun) -> list[Picture]:
    """Draw all pictures of a run; what it has no numbers for is left out."""
    with rc_context(STYLE):
        found = [_curves(run), *_coefficients(run), *_task_vectors(run.facts.get("task_vectors"))]
    return [picture for picture in found if picture]


def _curves(run: SeenRun) -> Picture | None:
    """Draw what was measured while learning, and the range of the coefficients, with stages and the best iterate."""
    history = run.history
    if len(history) < 2:
        return None
    drawn = [curve for curve in CURVES if any(curve.key in entry for entry in history)]
    count = len(drawn) + 1
    figure = Figure(figsize=(WIDTH, 1.3 * count + 1.2), layout="constrained")
    rows: list[Axes] = list(figure.subplots(count, 1, sharex=True))
    for axes, curve in zip(rows, drawn, strict=False):
        _line(axes, history, curve)
        low, high = axes.get_ylim()
        axes.set(ylabel=curve.axis, ylim=(max(low, curve.limits[0]), min(high, curve.limits[1])))
    steps = [entry["step"] for entry in history]
    low, high = ([entry[key] for entry in history] for key in ("c_min", "c_max"))
    rows[-1].fill_between(steps, low, high, color="0.8", label="smallest to largest coefficient")
    rows[-1].plot(steps, low, "k-", steps, high, "k-", linewidth=0.8)
    rows[-1].set(xlabel="step", ylabel="coefficients")
    rows[-1].locator_params(axis="x", integer=True)
    for axes in rows:
        _marks(axes, run)
    _legend(figure, rows)
    best = run.metrics.get("best_step", 0)
    text = f"Loss, agreement and range of the coefficients over {int(steps[-1])} steps; best iterate: step {best}."
    return _picture(figure, "Learning", text)


def _legend(figure: Figure, rows: Sequence[Axes], columns: int = 2) -> None:
    """Name each line once, above the axes, where it hides nothing."""
    found = [pair for axes in rows for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    named = {label: handle for handle, label in reversed(found)}
    order = [label for label in dict.fromkeys(label for _, label in found)]
    figure.legend([named[label] for label in order], order, loc="outside upper center", ncols=columns)


def _line(axes: Axes, history: Sequence[Mapping[str, float]], curve: _Curve) -> None:
    seen = [(entry["step"], curve.factor * entry[curve.key]) for entry in history if curve.key in entry]
    marker = "o" if len(seen) < 40 else ""
    axes.plot(*zip(*seen, strict=True), "k-", marker=marker, markersize=3, label=curve.label)


def _marks(axes: Axes, run: SeenRun) -> None:
    """Mark the best iterate and the borders of stages."""
    chosen = run.settings.get("watch.monitor")
    by = f", by {chosen}" if chosen in {curve.key for curve in CURVES} else ""
    axes.axvline(run.metrics.get("best_step", 0), color="0.3", linestyle=":", label=f"best iterate{by}")
    borders: list[float] = run.facts.get("stages", [])
    for step in borders:
        label = "second stage begins" if len(borders) == 1 else "finer stages begin" if step == borders[0] else None
        axes.axvline(step, color="0.5", linewidth=3, alpha=0.5, label=label)


def _coefficients(run: SeenRun) -> Iterable[Picture]:
    """Draw the heat maps; then coefficients by depth."""
    table, groups, experts = run.table.coefficients, run.table.grouping.groups, run.table.experts
    for shown in heat_maps(table, groups):
        yield _heat_map(shown, experts, run.centre)
    blocks = Aggregate(table, groups, depth_of_group)
    if 1 < len(blocks) < len(groups):
        yield _ranges(blocks, experts, "Coefficients by depth")


def all_groups(run: SeenRun) -> Picture | None:
    """Draw every group, if the heat maps of the report sum them up."""
    table, groups = run.table.coefficients, run.table.grouping.groups
    if len(groups) <= MANY_GROUPS:
        return None
    with rc_context(STYLE):
        every = HeatMap("Coefficients of all groups", "group", table, groups)
        return _heat_map(every, run.table.experts, run.centre)


def _heat_map(shown: HeatMap, columns: Sequence[str], centre: str) -> Picture:
    figure = Figure(figsize=size_of(len(shown.rows), columns), layout="constrained")
    draw(figure, figure.add_subplot(), shown, columns, centre)
    title, low, high = shown.title, float(shown.values.min()), float(shown.values.max())
    size = f"{len(shown.rows)} rows ({shown.what}), {len(columns)} columns"
    return _picture(figure, title, f"{title}: {size}, from {low:.3g} to {high:.3g}.")


def _ranges(blocks: Aggregate, experts: Sequence[str], title: str) -> Picture:
    """Draw each expert's mean per block; of many experts their mean and range."""
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.add_subplot()
    _lines(axes, blocks.mean.numpy(), experts, "columns")
    _legend(figure, [axes], 3)
    axes.axhline(0, color="0.4", linewidth=0.8)
    _depths(axes, blocks.labels)
    axes.set_ylabel("mean coefficient; 0 = centre")
    text = f"Mean coefficient of {len(experts)} columns in {len(blocks)} blocks, in the order of the model."
    return _picture(figure, title, text)


def _lines(axes: Axes, values: NDArray[Any], names: Sequence[str], what: str) -> None:
    """Draw one line per column, or the mean and range of many."""
    places = np.arange(len(values))
    if len(names) > _MOST_LINES:
        axes.fill_between(places, values.min(1), values.max(1), color="0.8", label=f"range of {len(names)} {what}")
        axes.plot(places, values.mean(1), "k-o", markersize=3, label="their mean")
    else:
        for k, name in enumerate(names):
            (line,) = axes.plot(places, values[:, k], markersize=4, linewidth=1.2, label=short(name, 30))
            line.set(linestyle=_STYLES[k % 4], marker=_MARKERS[k], color=str(0.6 * k / len(names)))


def _depths(axes: Axes, labels: Sequence[str]) -> None:
    step = -(-len(labels) // 30)
    prefix = common(labels)
    names = [short(label.removeprefix(prefix), 22) for label in labels[::step]]
    axes.set_xticks(range(0, len(labels), step), names, rotation=60, ha="right", rotation_mode="anchor")
    if prefix:
        axes.set_xlabel(f"{short(prefix)}…")


def _task_vectors(found: Mapping[str, Any] | None) -> Iterable[Picture]:
    """Draw norms of the task vectors by depth, and the cosines between them."""
    if not found or not found["depths"]:
        return
    grams = torch.tensor(found["grams"], dtype=torch.float64)  # (A, K, K)
    tasks, depths = found["tasks"], found["depths"]
    norms = grams.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()  # (A, K)
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.add_subplot()
    _lines(axes, norms.numpy(), tasks, "experts")
    _legend(figure, [axes], 3)
    _depths(axes, depths)
    axes.set_ylabel("norm of expert − base")
    yield _picture(figure, "Task vectors by depth", f"Norms of {len(tasks)} task vectors in {len(depths)} blocks.")
    if len(tasks) > 1:
        yield _cosines(cosines_of(grams.sum(0, keepdim=True))[0], tasks)
        yield _cosines_by_depth(cosines_of(grams), depths)


def cosines_of(grams: Tensor) -> Tensor:
    """Divide inner products by the norms of both vectors; 0 where a vector is zero.

    Args:
        grams: Inner products of all pairs, (A, K, K).
    """
    norms = grams.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    return (grams / (norms[:, :, None] * norms[:, None, :])).nan_to_num(0.0, 0.0, 0.0)


def pairs_of(by_depth: Tensor) -> Tensor:
    """Return the entries of all pairs of two, (A, pairs).

    Args:
        by_depth: A number of every pair, (A, K, K).
    """
    upper = torch.triu_indices(by_depth.shape[1], by_depth.shape[1], 1)
    return by_depth[:, upper[0], upper[1]]


def _cosines(whole: Tensor, tasks: Sequence[str]) -> Picture:
    """Draw the cosines of all pairs over the whole model."""
    side = max(WIDTH - 1.5, 2.0 + 0.26 * len(tasks))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(whole.abs().numpy(), cmap="Greys", vmin=0, vmax=1.4)  # white to grey
    names = [short(task, 16) for task in tasks]
    axes.set_xticks(range(len(tasks)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tasks)), names)
    for (row, column), value in np.ndenumerate(whole.numpy()) if len(tasks) <= 12 else ():
        ink = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, rounded(value), ha="center", va="center", fontsize=7.5, color=ink)
    apart = whole.numpy()[~np.eye(len(tasks), dtype=bool)]
    text = f"Cosines of all pairs of {len(tasks)} task vectors, from {apart.min():.2f} to {apart.max():.2f}."
    return _picture(figure, "Cosines of task vectors", text)


def _cosines_by_depth(by_depth: Tensor, depths: Sequence[str]) -> Picture:
    """Draw mean and range of the cosines of all pairs in every block."""
    pairs = pairs_of(by_depth).numpy()
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(range(len(pairs)), pairs.min(1), pairs.max(1), color="0.8", label="range over pairs")
    axes.plot(range(len(pairs)), pairs.mean(1), "k-o", markersize=3, label="mean over pairs")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_ylabel("cosine")
    _legend(figure, [axes])
    _depths(axes, depths)
    low, high = float(pairs.min()), float(pairs.max())
    return _picture(figure, "Cosines by depth", f"Pairwise cosines, by depth from {low:.2f} to {high:.2f}.")


def _picture(figure: Figure, title: str, text: str) -> Picture:
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    svg = file.getvalue().replace("<svg ", '<svg text-rendering="geometricPrecision" ', 1)  # no width is rounded up
    return Picture(title, text, svg, int(_LEAST * figure.get_figwidth()))
