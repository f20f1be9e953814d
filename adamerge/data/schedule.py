"""Rows per step and held-out rows: pure functions of the seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from adamerge.types import Fact


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


def split_held_out(count: int, share: float, seed: int, least: int = 0) -> tuple[list[int], list[int]]:
    """Divide row indices at random into rows to learn from and held-out rows.

    Args:
        count: Number of rows.
        share: Share of the rows that is held out; at least one row remains to learn from.
        seed: Random seed.
        least: Hold out at least so many of twice as many rows or more; no rows if the share is 0.

    Returns:
        Sorted indices of the rows to learn from and of the held-out rows.

    Example:
        >>> learn, held_out = split_held_out(8, 0.25, seed=0)
        >>> len(learn), len(held_out), sorted(learn + held_out) == list(range(8))
        (6, 2, True)
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = min(round(count * share), count - 1)
    if share and count >= 2 * least:
        held_out = max(held_out, least)
    return sorted(order[held_out:]), sorted(order[:held_out])


def held_out_notes(counts: Mapping[str, int], share: float, least: int) -> list[Fact]:
    """Say where the share of held-out rows is not what counts, and where held-out rows are few.

    Args:
        counts: Number of rows by task.
        share: As for `split_held_out`.
        least: As for `split_held_out`.

    Example:
        >>> for line in held_out_notes({"mail": 65, "news": 20, "chat": 600}, 0.25, 32):
        ...     print(line)
        note: held out: 32 of 65 rows of mail (data.least_held_out; the share data.held_out would be 16)
        note: held out: 5 of 20 rows of news; with fewer than 64 rows the share data.held_out counts, and so few rows \
tell iterates apart only roughly
    """
    if not share:
        return []
    held = {task: min(round(count * share), count - 1) for task, count in counts.items() if count}
    raised = {task: few for task, few in held.items() if few < least and counts[task] >= 2 * least}
    few = {task: few for task, few in held.items() if counts[task] < 2 * least}
    lines = [
        f"{least} of {counts[task]} rows of {task} (data.least_held_out; the share data.held_out would be {own})"
        for task, own in raised.items()
    ]
    if few:
        each = ", ".join(f"{own} of {counts[task]} rows of {task}" for task, own in few.items())
        lines.append(
            f"{each}; with fewer than {2 * least} rows the share data.held_out counts, and so few rows tell iterates "
            "apart only roughly"
        )
    return [Fact(f"note: held out: {line}") for line in lines]
