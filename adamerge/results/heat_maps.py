"""Heat maps of coefficients that stay readable from 20 groups to thousands, at full size and in grey."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from adamerge.results.aggregate import Aggregate, depth_of_group, kind_of_module
from adamerge.types import Coefficients

WIDTH = 6.0
"""Inches of a picture; two have place side by side, and one has place in a narrow window, with letters of 9 pixels."""
MANY_GROUPS = 60
"""Groups up to which a heat map has a row each."""
STYLE: Any = {
    "svg.hashsalt": "adamerge",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "text.parse_math": False,  # a task may be called $x$
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.w_pad": 0.12,  # a browser's letters may be wider than those that were measured here
}
_MOST_LABELS = 80
_LONGEST = 24
"""Letters of the longest name of a column."""
_LIGHT = 0.46
"""Share of the colour scale up to which white is seen better than black."""
_NUMBERS = 240
"""Cells up to which a heat map has its numbers in it."""


class HeatMap(NamedTuple):
    """What a heat map shows.

    Attributes:
        title: Its title.
        what: What a row is.
        values: Coefficients, (A, K).
        rows: Names of the rows, (A,).
    """

    title: str
    what: str
    values: Tensor
    rows: Sequence[str]


def heat_maps(coefficients: Coefficients, groups: Sequence[str]) -> Iterator[HeatMap]:
    """Choose what to show of coefficients: every group of few; of many, means by block and by kind of module.

    Args:
        coefficients: On the CPU, (G, K).
        groups: Their names, (G,).

    Example:
        >>> import torch
        >>> few, many = ([f"h.{i % 4}.mlp[{i}:{i + 1}]" for i in range(count)] for count in (3, 300))
        >>> [one.title for one in heat_maps(torch.zeros(3, 2), few)]
        ['Coefficients']
        >>> [(one.title, one.rows) for one in heat_maps(torch.zeros(300, 2), many)]
        [('Coefficients, mean per block', ['h.0 (75)', 'h.1 (75)', 'h.2 (75)', 'h.3 (75)'])]
    """
    every = HeatMap("Coefficients", "group", coefficients, groups)
    if len(groups) <= MANY_GROUPS:
        yield every
        return
    summed = [*_summed(coefficients, groups)]
    yield from summed or [every]


def _summed(coefficients: Coefficients, groups: Sequence[str]) -> Iterator[HeatMap]:
    for what, title, label in (("block", "block", depth_of_group), ("kind", "kind of module", kind_of_module)):
        parts = Aggregate(coefficients, groups, label)
        if 1 < len(parts) < len(groups):
            yield HeatMap(f"Coefficients, mean per {title}", what, parts.mean, counted(parts))


def counted(parts: Aggregate) -> list[str]:
    """Name parts with the number of their groups, where they have several."""
    return [
        f"{label} ({count})" if count > 1 else label for label, count in zip(parts.labels, parts.counts, strict=True)
    ]


def size_of(rows: int, columns: Sequence[str]) -> tuple[float, float]:
    """Return width and height of a heat map in inches, so that each of few rows has place for its name and numbers.

    Args:
        rows: Number of its rows.
        columns: Names of its columns, which stand aslant below it.
    """
    longest = max((len(short(name, _LONGEST)) for name in columns), default=0)
    return max(WIDTH, 3.2 + 0.36 * len(columns)), 1.0 + 0.045 * longest + _height(rows)


def _height(rows: int) -> float:
    """Return the height of the rows alone."""
    return 0.2 * min(rows, _MOST_LABELS)


def draw(figure: Figure, axes: Axes, shown: HeatMap, columns: Sequence[str], centre: str) -> None:
    """Draw coefficients as lightness, which grey keeps; the colour bar names zero and the centre.

    Args:
        figure: Gets the colour bar.
        axes: Gets the heat map.
        shown: The coefficients.
        columns: Names of the experts, (K,).
        centre: Name of the centre, to which the weighted task vectors are added.
    """
    values = shown.values
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    high = high if high > low else low + 1  # all are zero
    image = axes.imshow(values.numpy(), cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    names = [short(name, _LONGEST) for name in columns]
    axes.set_xticks(range(len(columns)), names, rotation=45, ha="right", rotation_mode="anchor")
    _name_rows(axes, shown.rows)
    if values.numel() <= _NUMBERS:
        _write_numbers(axes, values, low + _LIGHT * (high - low))
    pad = max(0.02, 0.1 / _height(len(shown.rows)))
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.8, aspect=40, pad=pad, ticks=MaxNLocator(5))
    bar.set_label(f"coefficient; 0 = the centre {'' if len(centre) < 16 else chr(10)}({short(centre, 36)}) alone")
    bar.ax.axvline(0, color="red", linewidth=2)
    bar.ax.axvline(0, color="white", linewidth=0.8)


def _name_rows(axes: Axes, rows: Sequence[str]) -> None:
    step, prefix = -(-len(rows) // _MOST_LABELS), common(rows)
    names = [short(name.removeprefix(prefix), 36) for name in rows[::step]]
    axes.set_yticks(range(0, len(rows), step), names)
    if prefix or step > 1:
        every = f"one of {step} rows is named" if step > 1 else ""
        axes.set_ylabel("; ".join(filter(None, [f"{short(prefix)}…" if prefix else "", every])))


def _write_numbers(axes: Axes, values: Tensor, middle: float) -> None:
    for (row, column), value in np.ndenumerate(values.numpy()):
        ink = "black" if value > middle else "white"
        axes.text(column, row, rounded(value), ha="center", va="center", fontsize=7.5, color=ink)


def rounded(value: float) -> str:
    """Write two digits after the point, and zero without a sign.

    Example:
        >>> rounded(-0.001), rounded(-0.25)
        ('0.00', '-0.25')
    """
    return f"{value:.2f}".replace("-0.00", "0.00")


def common(names: Sequence[str]) -> str:
    """Return the parts of dotted names that all begin with; each keeps at least its last part.

    Example:
        >>> common(["vit.layers.0.q", "vit.layers.1.q"]), common(["norm", "vit.q"])
        ('vit.layers.', '')
    """
    parts = [name.split(".")[:-1] for name in names]
    same = [pieces[0] for pieces in zip(*parts, strict=False) if len(set(pieces)) == 1]
    length = next((i for i, pieces in enumerate(zip(*parts, strict=False)) if len(set(pieces)) > 1), len(same))
    return "".join(f"{part}." for part in same[:length])


def short(name: str, limit: int = 44) -> str:
    """Cut a long name at its beginning, which says least.

    Example:
        >>> short("encoder.layer.3.attention", 12)
        '…3.attention'
    """
    return name if len(name) <= limit else "…" + name[-limit + 1 :]
