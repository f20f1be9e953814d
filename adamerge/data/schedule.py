"""Rows per step and held-out rows: pure functions of the seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from adamerge.data.settings import Batching
from adamerge.experts.experts import KEEP
from adamerge.types import Fact

JUDGING = 64
"""Rows that are enough to judge merges by, and to choose by as many others."""


@dataclass(frozen=True)
class Schedule:
    """The rows of each step: a pure function of (seed, step), so resuming needs no state.

    Each pass over a task's rows has a new random order; a batch may cross from one pass into the next.

    Attributes:
        seed: Random seed of the orders.
        size: Rows per task per step; None, or as many as a task has, uses all rows at every step, in their original
            order.
    """

    seed: int
    size: int | None

    def rows(self, step: int, task: int, count: int) -> list[int]:
        """List the rows of one task at one step.

        Args:
            step: Number of the step, from 0.
            task: Index of the task.
            count: Number of the task's rows.

        Returns:
            Indices of rows, `size` of them or all.

        Example:
            >>> schedule = Schedule(seed=0, size=2)
            >>> sorted(schedule.rows(0, 0, 4) + schedule.rows(1, 0, 4))
            [0, 1, 2, 3]
            >>> Schedule(seed=0, size=10**12).rows(7, 0, 3)
            [0, 1, 2]
        """
        if self.size is None or self.size >= count:
            return list(range(count))
        places = range(step * self.size, (step + 1) * self.size)
        orders = {epoch: self._order(epoch, task, count) for epoch in {place // count for place in places}}
        return [orders[place // count][place % count] for place in places]

    def _order(self, epoch: int, task: int, count: int) -> list[int]:
        seed = (self.seed * 1_000_003 + task) * 1_000_003 + epoch
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def split_held_out(count: int, held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Divide row indices at random into rows to learn from and held-out rows.

    Args:
        count: Number of rows.
        held_out: How many of them are held out.
        seed: Random seed.

    Returns:
        Sorted indices of the rows to learn from and of the held-out rows.

    Example:
        >>> learn, held_out = split_held_out(8, 2, seed=0)
        >>> len(learn), len(held_out), sorted(learn + held_out) == list(range(8))
        (6, 2, True)
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[held_out:]), sorted(order[:held_out])


class HeldRows(NamedTuple):
    """How many rows of a task are held out.

    Attributes:
        choosing: Rows that choose step and scale.
        judging: Rows that choose nothing, so that finished merges can be judged by them.
    """

    choosing: int
    judging: int

    @property
    def all(self) -> int:
        """Both together."""
        return sum(self)


def held_out_rows(counts: Mapping[str, int], how: Batching) -> dict[str, HeldRows]:
    """Choose how many rows of every task are held out.

    A task with too few rows to tell iterates apart holds out none where others can: it needs them to learn from, and so
    few rows would end learning for all. The base, which is only a teacher, always holds out its share.

    Args:
        counts: Number of rows by task.
        how: The share, and its limits.

    Example:
        >>> how = Batching(held_out=0.25, least_held_out=32)
        >>> [tuple(own) for own in held_out_rows({"mail": 65, "news": 20, "chat": 600}, how).values()]
        [(32, 0), (0, 0), (86, 64)]
        >>> [tuple(own) for own in held_out_rows({"mail": 40, "news": 20}, how).values()]
        [(10, 0), (5, 0)]
    """
    some = any(count >= how.enough for task, count in counts.items() if task != KEEP)
    held = {
        task: 0 if some and count < how.enough and task != KEEP else how.held_out_of(count)
        for task, count in counts.items()
    }
    return {
        task: HeldRows(own - JUDGING, JUDGING) if own >= 2 * JUDGING else HeldRows(own, 0) for task, own in held.items()
    }


def held_out_notes(counts: Mapping[str, int], how: Batching) -> list[Fact]:
    """Say where the share of held-out rows is not what counts, and where held-out rows are few.

    Args:
        counts: Number of rows by task.
        how: The share, and its limits.

    Example:
        >>> how = Batching(held_out=0.25, most_held_out=130)
        >>> for line in held_out_notes({"mail": 65, "news": 20, "chat": 600}, how):
        ...     print(line)
        note: held out: 32 of 65 rows of mail (data.least_held_out; the share data.held_out would be 16)
        note: held out: 130 of 600 rows of chat (data.most_held_out; the share data.held_out would be 150)
        note: held out: 64 of the held-out rows of chat choose nothing: merges are judged by them
        note: held out: none of 20 rows of news; with fewer than 64 rows all are learned from, and other tasks choose
        >>> for line in held_out_notes({"news": 20}, how):
        ...     print(line)
        note: held out: 5 of 20 rows of news; with fewer than 64 rows the share data.held_out counts, and so few rows \
tell iterates apart only roughly
    """
    if not how.held_out:
        return []
    parts = {task: own for task, own in held_out_rows(counts, how).items() if counts[task]}
    lines: list[str] = []
    for key, by_limit in (("least_held_out", int.__gt__), ("most_held_out", int.__lt__)):
        lines += [
            f"{own.all} of {counts[task]} rows of {task} (data.{key}; the share data.held_out would be {share})"
            for task, own in parts.items()
            if own.all and by_limit(own.all, share := how.share_of(counts[task]))
        ]
    if judging := [task for task, own in parts.items() if own.judging]:
        lines.append(
            f"{JUDGING} of the held-out rows of {', '.join(judging)} choose nothing: merges are judged by them"
        )
    none, few = (
        ", ".join(
            f"{own.all or 'none'} of {counts[task]} rows of {task}"
            for task, own in parts.items()
            if counts[task] < how.enough and bool(own.all) == some
        )
        for some in (False, True)
    )
    if none:
        lines.append(f"{none}; with fewer than {how.enough} rows all are learned from, and other tasks choose")
    if few:
        lines.append(
            f"{few}; with fewer than {how.enough} rows the share data.held_out counts, and so few rows tell iterates "
            "apart only roughly"
        )
    return [Fact(f"note: held out: {line}") for line in lines]
