"""Rows per step and held-out rows: pure functions of the seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from adamerge.data.settings import JUDGING, Batching
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
        note: held out: 5 of 20 rows of news; with fewer than 64 rows the share data.held_out counts, and so few rows \
tell iterates apart only roughly
    """
    if not how.held_out:
        return []
    own, share = ({task: of(n) for task, n in counts.items() if n} for of in (how.held_out_of, how.share_of))
    lines: list[str] = []
    for key, by_limit in (("least_held_out", int.__gt__), ("most_held_out", int.__lt__)):
        lines += [
            f"{held} of {counts[task]} rows of {task} (data.{key}; the share data.held_out would be {share[task]})"
            for task, held in own.items()
            if by_limit(held, share[task])
        ]
    judging = [task for task, count in counts.items() if how.judging_of(count)]
    if judging:
        lines.append(
            f"{JUDGING} of the held-out rows of {', '.join(judging)} choose nothing: merges are judged by them"
        )
    least = how.least_held_out
    few = [f"{held} of {counts[task]} rows of {task}" for task, held in own.items() if counts[task] < 2 * least]
    if few:
        lines.append(
            f"{', '.join(few)}; with fewer than {2 * least} rows the share data.held_out counts, and so few rows tell "
            "iterates apart only roughly"
        )
    return [Fact(f"note: held out: {line}") for line in lines]
