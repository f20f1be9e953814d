"""The compared models, and what they are called."""

from collections.abc import Mapping

CANDIDATES = ("base", "expert", "average", "task_arithmetic", "task_arithmetic_tuned", "learned")
"""The compared models in display order; all values of a model that was not measured are None."""

HEADERS: Mapping[str, str] = {
    "base": "base",
    "expert": "expert",
    "average": "average",
    "task_arithmetic": "task\narithm.\n0.3",
    "task_arithmetic_tuned": "task\narithm.\ntuned",
    "learned": "learned",
}
"""Headers of the table's columns; an expert is evaluated on its own task."""

IN_WORDS: Mapping[str, str] = {
    "learned": "the learned merge",
    "centre": "the centre alone",
    "average": "the average",
    "task_arithmetic": "task arithmetic at 0.3",
    "task_arithmetic_tuned": "task arithmetic at its best scale",
}
"""The merges that are compared on held-out rows, in words."""
