"""What Frank-Wolfe selected, and how far an optimiser came: for metrics.json and for the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from adamerge.optim import Selection
from adamerge.types import Coefficients

BASE = "(base)"
"""What the vertex at zero is called."""


def as_json(selections: Sequence[Selection], groups: Sequence[str], experts: Sequence[str]) -> list[dict[str, object]]:
    """List every selection with its names: group, expert, first step, number of steps, final weight.

    Example:
        >>> as_json([Selection(group=0, expert=None, first_step=2, times=1, weight=0.25)], ["model"], ["news"])
        [{'group': 'model', 'expert': '(base)', 'first_step': 2, 'times': 1, 'weight': 0.25}]
    """
    return [
        {
            "group": groups[selection.group],
            "expert": BASE if selection.expert is None else experts[selection.expert],
            "first_step": selection.first_step,
            "times": selection.times,
            "weight": selection.weight,
        }
        for selection in selections
    ]


def from_json(entries: Sequence[Mapping[str, Any]], groups: Sequence[str], experts: Sequence[str]) -> list[Selection]:
    """Restore what `as_json` made names of.

    Example:
        >>> entries = as_json([Selection(group=0, expert=1, first_step=2, times=1, weight=0.25)], ["model"], ["a", "b"])
        >>> from_json(entries, ["model"], ["a", "b"])
        [Selection(group=0, expert=1, first_step=2, times=1, weight=0.25)]
    """
    group_of = {name: number for number, name in enumerate(groups)}
    expert_of = {BASE: None} | {name: number for number, name in enumerate(experts)}
    return [
        Selection(
            group=group_of[entry["group"]],
            expert=expert_of[entry["expert"]],
            first_step=entry["first_step"],
            times=entry["times"],
            weight=entry["weight"],
        )
        for entry in entries
    ]


def selection_table(selections: Sequence[Selection], coefficients: Coefficients, experts: Sequence[str]) -> Table:
    """Make a table of experts: in how many groups and when each was selected, and its last mean coefficient (G, K)."""
    result = Table(title="selected by Frank-Wolfe", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    result.add_column("expert")
    for head in ("groups", "first at step", "times", "mean coefficient"):
        result.add_column(head, justify="right")
    means = coefficients.mean(0)  # (K,)
    for expert, name in [*enumerate(experts), (None, BASE)]:
        own = [selection for selection in selections if selection.expert == expert]
        if expert is None and not own:
            continue
        first = str(min(selection.first_step for selection in own)) if own else "–"
        times = sum(selection.times for selection in own)
        mean = "–" if expert is None else f"{means[expert].item():.3f}"
        result.add_row(name, f"{len(own)} of {len(coefficients)}", first, str(times), mean)
    return result


def sentence(certificate: Mapping[str, float], converged: bool) -> str:
    """Describe how far the optimiser came.

    Example:
        >>> sentence({"loss": 0.5, "gap": 1e-7, "evaluations": 12}, converged=True)
        'the optimiser was done: loss 0.5, gap 1e-07, evaluations 12'
    """
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in certificate.items())
    return f"the optimiser {'was done' if converged else 'stopped before converging'}: {numbers}"
