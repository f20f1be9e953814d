"""Heat map of the coefficients, learning curve, table per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from adamerge.results.candidates import HEADERS
from adamerge.results.compare import Comparison
from adamerge.results.evaluate import MEAN, Scores
from adamerge.results.heat_maps import STYLE, draw, heat_maps, size_of
from adamerge.results.kept_base import ROW, from_base, shown
from adamerge.results.measures import score_text
from adamerge.storage.atomic_files import whole_file
from adamerge.types import Coefficients

_DPI = 120


def heat_map(
    coefficients: Coefficients, groups: Sequence[str], experts: Sequence[str], path: Path, *, centre: str | None = None
) -> None:
    """Draw coefficients as a PNG, a column per expert: a row per group, or of many groups per block and kind of module.

    Args:
        coefficients: On the CPU, (G, K).
        groups: Names of the rows, (G,).
        experts: Names of the columns, (K,).
        path: The file.
        centre: Name of the centre, to which the weighted task vectors are added; None is the base.
    """
    shown = [*heat_maps(coefficients, groups)]
    sizes = [size_of(len(one.rows), experts) for one in shown]
    heights = [height for _, height in sizes]
    with rc_context(STYLE):
        figure = Figure(figsize=(sizes[0][0], sum(heights) + 0.4), layout="constrained", dpi=_DPI)
        parts = figure.subplots(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, one in zip(parts, shown, strict=True):
            draw(figure, axes, one, experts, centre or "base")
            axes.set_title(one.title, loc="left")
        _save(figure, path)


def curve(history: Sequence[Mapping[str, float]], best_step: int, path: Path, monitor: str | None = None) -> None:
    """Draw divergence or objective, and agreement, on held-out rows over steps, and mark the best iterate.

    Args:
        history: Measurements on held-out rows: step, agreement (0 to 1), objective and perhaps divergence; without
            them nothing is drawn.
        best_step: Step of the best iterate.
        path: The PNG file.
        monitor: What the best iterate was chosen by, for the legend; with divergence, that is drawn and not the
            objective.
    """
    seen = [entry for entry in history if "agreement" in entry]
    if not seen:
        return
    steps = [entry["step"] for entry in seen]
    chosen = f" (by {monitor})" if monitor else ""
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    key = "divergence" if monitor == "divergence" and all("divergence" in entry for entry in seen) else "objective"
    left.plot(steps, [entry[key] for entry in seen], color="0.45", linestyle="--", label=key)
    right.plot(steps, [100 * entry["agreement"] for entry in seen], color="tab:blue", marker=".", label="agreement")
    left.axvline(best_step, color="tab:red", linestyle=":", label=f"best iterate, step {best_step}{chosen}")
    left.set(xlabel="step", ylabel=f"{key} on held-out rows{', nats' if key == 'divergence' else ''}")
    left.locator_params(axis="x", integer=True)
    right.set_ylabel("agreement on held-out rows, %")
    figure.legend(handles=[*left.get_lines(), *right.get_lines()], frameon=False, loc="outside upper center", ncols=3)
    _save(figure, path)


def table(
    metrics: Mapping[str, Scores],
    ratios: Mapping[str, Scores],
    unit: str,
    by: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Table:
    """Make a table with one line per task and one column per model: the score, and in brackets its % of the expert's.

    Args:
        metrics: Scores by model; a model without any score gets no column.
        ratios: Scores in % of the expert's.
        unit: The metric and its unit, for the title.
        by: What the scale of task arithmetic was chosen by on held-out rows, for the caption.
        labels: Names of tasks in the table, if they say more than the task.

    Returns:
        The table.
    """
    tasks = list(next(iter(metrics.values())))
    shown = {key: scores for key, scores in metrics.items() if any(value is not None for value in scores.values())}
    title = f"{unit} (in brackets: % of the expert on its own task)"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    if "task_arithmetic_tuned" in shown:
        best = "highest agreement" if by == "agreement" else "lowest divergence from the experts"
        result.caption, result.caption_justify = f"tuned: at the scale with the {best} on held-out rows", "left"
    result.add_column("task", vertical="bottom")
    for key in shown:
        result.add_column(HEADERS.get(key, key), justify="right", vertical="bottom", style=_bold(key == "learned"))
    for task in tasks:
        measured = (labels or {}).get(task, unit)  # the metric of all tasks, or its own
        cells = [
            _cell(scores.get(task), None if key == "expert" else ratios[key].get(task), percent="%" in measured)
            for key, scores in shown.items()
        ]
        name = Text((labels or {}).get(task, task))  # not markup: a task may be called news[b]
        result.add_row(name, *cells, style=_bold(task == MEAN), end_section=task in tasks[-2:])
    return result


def comparison_table(comparison: Comparison) -> Table:
    """Make the table of a comparison's scores, with a row of how far merges are from the base where it is a teacher."""
    ratios = comparison.relative()
    made = table(comparison.scores, ratios, comparison.unit, comparison.by, comparison.labels)
    if far := from_base(comparison.judged):
        columns = [key for key, own in comparison.scores.items() if any(value is not None for value in own.values())]
        made.add_row(ROW, *(shown(far.get(key)) for key in columns))
    return made


def _bold(chosen: bool) -> str:
    return "bold" if chosen else ""


def _cell(value: float | None, ratio: float | None, *, percent: bool) -> str:
    if value is None:
        return "–"
    text = score_text(value, percent=percent)
    return text if ratio is None else f"{text} ({ratio:.0f})"


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as file:
        FigureCanvasAgg(figure).print_png(file)
