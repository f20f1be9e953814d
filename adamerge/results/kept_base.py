"""How far merges are from the base, where it is a teacher too: in words, and as rows of tables."""

import math
from collections.abc import Mapping, Sequence

from adamerge.calibration.row_scores import RowScores
from adamerge.experts.experts import KEEP
from adamerge.results.candidates import IN_WORDS

ROW = f"{KEEP}: divergence from the base, nats"
"""Name of what is shown of the base's rows, lower is better."""


def included(tasks: Mapping[str, object] | Sequence[str]) -> str:
    """Say that a mean over tasks counts the base's rows, if there are any.

    Example:
        >>> included(["news"]), included(["news", "keep"])
        ('', " with the base's (keep.weight)")
    """
    return " with the base's (keep.weight)" if KEEP in tasks else ""


def from_base(judged: Mapping[str, Mapping[str, RowScores]]) -> dict[str, float]:
    """Return how far each candidate is from the base, in nats; empty without rows of the base's."""
    return {key: own[KEEP].divergence for key, own in judged.items() if KEEP in own}


def shown(value: float | None) -> str:
    """Write a divergence; a dash if it is unknown.

    Example:
        >>> shown(0.01234567), shown(None), shown(float("nan"))
        ('0.01235', '–', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def sentence(found: Mapping[str, float | None]) -> str:
    """Say how far the exported merge is from the base, beside the closest other one; empty if it is unknown.

    Args:
        found: Divergence from the base by candidate, in nats.

    Example:
        >>> sentence({"learned": 0.5, "average": 0.25, "task_arithmetic": 0.75})
        "From the base the exported merge diverges by 0.5 nats on the base's held-out rows (keep); the average by 0.25."
    """
    others = {key: value for key, value in found.items() if key != "learned" and value is not None}
    if found.get("learned") is None:
        return ""
    closest = min(others, key=lambda key: others[key], default=None)
    beside = "" if closest is None else f"; {IN_WORDS.get(closest, closest)} by {shown(others[closest])}"
    far = shown(found["learned"])
    return f"From the base the exported merge diverges by {far} nats on the base's held-out rows (keep){beside}."
