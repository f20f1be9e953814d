"""Pictures of a report as SVG: curves, coefficients, task vectors; legible at full size and in grey."""

import base64
import io
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

from adamerge.results.aggregate import Aggregate, depth_of_group, kind_of_module
from adamerge.results.seen_run import SeenRun

WIDTH = 8.0
MANY_GROUPS = 60
"""Groups up to which the heat map has a row each."""
_NUMBERS = 240
"""Cells up to which a heat map has its numbers in it."""
_MOST_LINES = 8
"""Experts up to which each has a line of its own."""
_STYLES = ("-", "--", "-.", ":")
_MARKERS = "osv^D*Px"
_STYLE: Any = {
    "svg.hashsalt": "adamerge",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Picture(NamedTuple):
    """A picture.

    Attributes:
        title: What it shows.
        text: The same for who does not see it.
        svg: The SVG.
    """

    title: str
    text: str
    svg: str

    @property
    def uri(self) -> str:
        """The SVG as a data URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


def pictures(run: SeenRun) -> list[Picture]:
    """Draw all pictures of a run; what it has no numbers for is left out."""
    with rc_context(_STYLE):
        found = [_curves(run), *_coefficients(run), *_task_vectors(run.facts.get("task_vectors"))]
    return [picture for picture in found if picture]


def _curves(run: SeenRun) -> Picture | None:
    """Draw loss, agreement and range of the coefficients over the steps, with stages and the best iterate."""
    history = run.history
    if len(history) < 2:
        return None
    both = [key for key in ("loss", "objective") if any(key in entry for entry in history)]
    agreement = any("agreement" in entry for entry in history)
    count = 2 + agreement
    figure = Figure(figsize=(WIDTH, 1.6 * count + 0.6), layout="constrained")
    rows: list[Axes] = list(figure.subplots(count, 1, sharex=True))
    names = {"loss": "loss of the step", "objective": "objective, held out"}
    for key, style in zip(both, ("--", "-"), strict=False):
        _line(rows[0], history, key, style, names[key])
    rows[0].set_ylabel("loss")
    if agreement:
        _line(rows[1], history, "agreement", "-", "agreement with the experts, held out", 100)
        rows[1].set_ylabel("agreement, %")
    steps = [entry["step"] for entry in history]
    low, high = ([entry[key] for entry in history] for key in ("c_min", "c_max"))
    rows[-1].fill_between(steps, low, high, color="0.8", label="smallest to largest coefficient")
    rows[-1].plot(steps, low, "k-", steps, high, "k-", linewidth=0.8)
    rows[-1].set(xlabel="step", ylabel="coefficients")
    for axes in rows:
        _marks(axes, run)
        axes.legend(fontsize=7, frameon=False, loc="best")
    best = run.metrics.get("best_step", 0)
    text = f"Loss, agreement and range of the coefficients over {int(steps[-1])} steps; best iterate: step {best}."
    return _picture(figure, "Learning", text)


def _line(
    axes: Axes, history: Sequence[Mapping[str, float]], key: str, style: str, label: str, factor: float = 1
) -> None:
    seen = [(entry["step"], factor * entry[key]) for entry in history if key in entry]
    axes.plot(*zip(*seen, strict=True), f"k{style}", marker="o" if len(seen) < 40 else "", markersize=3, label=label)


def _marks(axes: Axes, run: SeenRun) -> None:
    """Mark the best iterate and the border of two stages."""
    axes.axvline(run.metrics.get("best_step", 0), color="0.3", linestyle=":", label="best iterate")
    for step in run.facts.get("stages", []):
        axes.axvline(step, color="0.5", linewidth=3, alpha=0.5, label="second stage begins")


def _coefficients(run: SeenRun) -> Iterable[Picture]:
    """Draw the heat map, by group or summed up by block; then coefficients by depth and by kind of module."""
    table, experts = run.table.coefficients, run.table.experts
    groups, centre = run.table.grouping.groups, run.table.centre or "base"
    blocks = Aggregate(table, groups, depth_of_group)
    kinds = Aggregate(table, groups, kind_of_module)
    if len(groups) <= MANY_GROUPS:
        yield _heat_map(table, groups, experts, centre, "Coefficients", "group")
    else:
        yield _heat_map(blocks.mean, _counted(blocks), experts, centre, "Coefficients, mean per block", "block")
    if 1 < len(blocks) < len(groups):
        yield _ranges(blocks, experts, centre, "Coefficients by depth")
    if 1 < len(kinds) < len(groups):
        yield _heat_map(kinds.mean, _counted(kinds), experts, centre, "Coefficients, mean per kind of module", "kind")


def all_groups(run: SeenRun) -> Picture | None:
    """Draw every group, if the heat map of the report sums them up."""
    groups = run.table.grouping.groups
    if len(groups) <= MANY_GROUPS:
        return None
    with rc_context(_STYLE):
        centre = run.table.centre or "base"
        return _heat_map(
            run.table.coefficients, groups, run.table.experts, centre, "Coefficients of all groups", "group"
        )


def _counted(parts: Aggregate) -> list[str]:
    return [
        f"{label} ({count})" if count > 1 else label for label, count in zip(parts.labels, parts.counts, strict=True)
    ]


def _heat_map(
    values: Tensor, rows: Sequence[str], columns: Sequence[str], centre: str, title: str, what: str
) -> Picture:
    """Draw coefficients as lightness, which grey keeps; the colour bar names zero and the centre."""
    height = min(1.6 + 0.19 * len(rows), 60.0) if len(rows) <= 300 else 18.0
    figure = Figure(figsize=(max(WIDTH, 4 + 0.33 * len(columns)), height), layout="constrained")
    axes = figure.add_subplot()
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    high = high if high > low else low + 1e-6
    image = axes.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [_short(name, 24) for name in columns], rotation=45, ha="right", fontsize=8)
    step, prefix = -(-len(rows) // 100), _common(rows)
    names = [_short(name.removeprefix(prefix)) for name in rows[::step]]
    axes.set_yticks(range(0, len(rows), step), names, fontsize=7 if step == 1 else 5)
    if prefix:
        axes.set_ylabel(f"{prefix}…", fontsize=8)
    if values.numel() <= _NUMBERS:
        _write_numbers(axes, values, (low + high) / 2)
    bar = figure.colorbar(image, location="top", shrink=0.6, aspect=40, pad=0.02)
    bar.set_label(f"coefficient; 0 = the centre ({centre}) alone", fontsize=8)
    bar.ax.axvline(0, color="red", linewidth=2)
    bar.ax.axvline(0, color="white", linewidth=0.8)
    extent = f"from {float(values.min()):.3g} to {float(values.max()):.3g}"
    return _picture(figure, title, f"{title}: {len(rows)} rows ({what}), {len(columns)} columns (expert), {extent}.")


def _write_numbers(axes: Axes, values: Tensor, middle: float) -> None:
    for (row, column), value in np.ndenumerate(values.numpy()):
        ink = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=ink)


def _ranges(blocks: Aggregate, experts: Sequence[str], centre: str, title: str) -> Picture:
    """Draw each expert's mean per block; of many experts their mean and range."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    _lines(axes, blocks.mean.numpy(), experts)
    axes.axhline(0, color="0.4", linewidth=0.8)
    _depths(axes, blocks.labels)
    axes.set_ylabel(f"mean coefficient (0: {centre})")
    text = f"Mean coefficient of {len(experts)} experts in {len(blocks)} blocks, in the order of the model."
    return _picture(figure, title, text)


def _lines(axes: Axes, values: NDArray[Any], names: Sequence[str]) -> None:
    """Draw one line per column, or the mean and range of many."""
    places = np.arange(len(values))
    if len(names) > _MOST_LINES:
        axes.fill_between(places, values.min(1), values.max(1), color="0.8", label=f"range of {len(names)} experts")
        axes.plot(places, values.mean(1), "k-o", markersize=3, label="mean of the experts")
    else:
        for k, name in enumerate(names):
            (line,) = axes.plot(places, values[:, k], markersize=4, linewidth=1.2, label=_short(name, 30))
            line.set(linestyle=_STYLES[k % 4], marker=_MARKERS[k], color=str(0.6 * k / len(names)))
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2))


def _depths(axes: Axes, labels: Sequence[str]) -> None:
    step = -(-len(labels) // 30)
    prefix = _common(labels)
    names = [_short(label.removeprefix(prefix), 22) for label in labels[::step]]
    axes.set_xticks(range(0, len(labels), step), names, rotation=60, ha="right", fontsize=7)


def _task_vectors(found: Mapping[str, Any] | None) -> Iterable[Picture]:
    """Draw norms of the task vectors by depth, and the cosines between them."""
    if not found or not found["depths"]:
        return
    grams = torch.tensor(found["grams"], dtype=torch.float64)  # (A, K, K)
    tasks, depths = found["tasks"], found["depths"]
    norms = grams.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()  # (A, K)
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    _lines(axes, norms.numpy(), tasks)
    _depths(axes, depths)
    axes.set_ylabel("‖expert − base‖")
    yield _picture(figure, "Task vectors by depth", f"Norms of {len(tasks)} task vectors in {len(depths)} blocks.")
    if len(tasks) > 1:
        yield _cosines(_unit(grams), _unit(grams.sum(0, keepdim=True))[0], tasks, depths)


def _unit(grams: Tensor) -> Tensor:
    norms = grams.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    return (grams / (norms[:, :, None] * norms[:, None, :])).nan_to_num(0.0, 0.0, 0.0)


def _cosines(by_depth: Tensor, whole: Tensor, tasks: Sequence[str], depths: Sequence[str]) -> Picture:
    """Draw the cosines of all pairs over the whole model, and their range by depth."""
    figure = Figure(figsize=(WIDTH, 3.6 + 0.12 * len(tasks)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    left.imshow(whole.abs().numpy(), cmap="Greys", vmin=0, vmax=1.4)  # white to grey, so that numbers are legible
    names = [_short(task, 16) for task in tasks]
    left.set_xticks(range(len(tasks)), names, rotation=60, ha="right", fontsize=7)
    left.set_yticks(range(len(tasks)), names, fontsize=7)
    for (row, column), value in np.ndenumerate(whole.numpy()) if len(tasks) <= 12 else ():
        left.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6)
    left.set_title("whole model", fontsize=9)
    upper = torch.triu_indices(len(tasks), len(tasks), 1)
    pairs = by_depth[:, upper[0], upper[1]].numpy()  # (A, pairs)
    right.fill_between(range(len(pairs)), pairs.min(1), pairs.max(1), color="0.8", label="range over pairs")
    right.plot(range(len(pairs)), pairs.mean(1), "k-o", markersize=3, label="mean over pairs")
    right.axhline(0, color="0.4", linewidth=0.8)
    right.legend(fontsize=7, frameon=False)
    _depths(right, depths)
    right.set_title("by depth", fontsize=9)
    low, high = float(pairs.min()), float(pairs.max())
    return _picture(figure, "Cosines of task vectors", f"Pairwise cosines, by depth from {low:.2f} to {high:.2f}.")


def _common(names: Sequence[str]) -> str:
    """Return the parts of dotted names that all begin with; each keeps at least its last part."""
    parts = [name.split(".")[:-1] for name in names]
    same = [pieces[0] for pieces in zip(*parts, strict=False) if len(set(pieces)) == 1]
    length = next((i for i, pieces in enumerate(zip(*parts, strict=False)) if len(set(pieces)) > 1), len(same))
    return "".join(f"{part}." for part in same[:length])


def _short(name: str, limit: int = 44) -> str:
    return name if len(name) <= limit else "…" + name[-limit + 1 :]


def _picture(figure: Figure, title: str, text: str) -> Picture:
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return Picture(title, text, file.getvalue())
