"""Which rows a model is asked together, so that what it reads of its neighbours and of padding shows."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor

from adamerge.data.padding import Padding
from adamerge.data.rows import Rows

_TRIED = 16
"""Pairs of rows of one length among which two different rows are sought."""

_OTHERS = 4
"""Further rows that are asked together: what a model reads may not show in every row, nor in every two."""

TOGETHER = 2 + _OTHERS
"""Rows that share a forward pass, where their number is not limited otherwise."""

_CROWD = 8
"""Rows of a forward pass as full as those of learning; more would make the probe slow."""

_LARGEST = 2**26
"""Largest number of logits of more than two rows."""


def room(answer: Tensor, length: tuple[int, ...]) -> int:
    """Return how many rows of this length fit in memory at once, at least two.

    Args:
        answer: The logits of such a row: one per class, or those of its positions that count.
        length: Its length, for every part of it that is padded.

    Example:
        >>> room(torch.zeros(3), (512,)) > 1000, room(torch.zeros(7, 152_000), (512,))
        (True, 2)
    """
    positions = max(length, default=1) if answer.ndim > 1 else 1
    return max(2, _LARGEST // max(1, positions * answer.shape[-1]))


def groups_of(rows: Rows, padding: Padding, size: int) -> list[tuple[int, ...]]:
    """List groups of rows that share a forward pass.

    Of unequal length are the shortest row beside the longest, then the longest beside it and rows of other lengths; of
    one length two rows that differ, several rows, and one row twice.

    Args:
        rows: The rows.
        padding: Which rows may share a forward pass.
        size: Maximum number of rows per forward pass.
    """
    if padding.share == "none" or size < 2:
        return []
    order = rows.by_length(range(len(rows)))
    short, long = order[-1], order[0]
    if padding.share == "any":
        between = order[1:-1]
        shorter = [row for row in between if rows.length(row) != rows.length(long)] or between
        unequal = [(short, long), *_beside(long, [short, *_spread(shorter)], size)]
        several = list[tuple[int, ...]]()
    else:
        first, *usual = _of_usual_length(rows, order)
        unequal, several = [], _beside(first, _spread(usual), size)
    equal = islice(((a, b) for a, b in pairwise(order) if rows.length(a) == rows.length(b)), _TRIED)
    twins = next((pair for pair in equal if _differ(rows, *pair)), (long, long))
    return list(dict.fromkeys([*unequal, twins, *several, (short, short)]))


def crowd_of(rows: Rows, padding: Padding, size: int) -> tuple[int, ...]:
    """Return rows for a full forward pass.

    The last of them is in the groups too: a capacity limit drops this row first.

    Args:
        rows: The rows.
        padding: Which rows may share a forward pass.
        size: Maximum number of rows per forward pass.
    """
    order = rows.by_length(range(len(rows)))
    together = order if padding.share == "any" else _of_usual_length(rows, order)
    return tuple(reversed(together[: min(size, _CROWD)])) if padding.share != "none" else ()


def _of_usual_length(rows: Rows, order: Sequence[int]) -> list[int]:
    lengths = Counter(map(rows.length, order))
    usual = max(lengths, key=lengths.__getitem__)
    return [row for row in order if rows.length(row) == usual]


def _spread(rows: Sequence[int]) -> Sequence[int]:
    """Return a few rows from all places of a list."""
    return rows[:: -(-len(rows) // _OTHERS)] if rows else []


def _beside(row: int, others: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Put a row beside others, in as few groups of `size` rows as there must be.

    Example:
        >>> _beside(9, [1, 2, 3], 8), _beside(9, [1, 2, 3], 3)
        ([(9, 1, 2, 3)], [(9, 1, 2), (9, 3)])
    """
    return [(row, *others[start : start + size - 1]) for start in range(0, len(others), size - 1)]


def _differ(rows: Rows, one: int, two: int) -> bool:
    """Return whether two rows of one length have different inputs."""
    first, second = rows.batch([one]).inputs, rows.batch([two]).inputs
    return any(not torch.equal(tensor, second[name]) for name, tensor in first.items())
