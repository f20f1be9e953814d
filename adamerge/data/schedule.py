"""Which rows a step takes, and which are held out: pure functions of the seed."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Schedule:
    """Which rows a step takes: a pure function of (seed, step), so that resuming needs no state.

    Each pass over a task's rows is in a new random order; batches run on from one pass into the next.

    Attributes:
        seed: Of the orders.
        size: Rows per task per step; None takes all rows at every step, in their own order.
    """

    seed: int
    size: int | None

    def rows(self, step: int, task: int, count: int) -> list[int]:
        """List the rows that a step takes of the task with index `task`, which has `count` rows.

        Example:
            >>> schedule = Schedule(seed=0, size=2)
            >>> sorted(schedule.rows(0, 0, 4) + schedule.rows(1, 0, 4))
            [0, 1, 2, 3]
        """
        if self.size is None:
            return list(range(count))
        places = range(step * self.size, (step + 1) * self.size)
        orders = {epoch: self._order(epoch, task, count) for epoch in {place // count for place in places}}
        return [orders[place // count][place % count] for place in places]

    def _order(self, epoch: int, task: int, count: int) -> list[int]:
        seed = (self.seed * 1_000_003 + task) * 1_000_003 + epoch
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def split_held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide row indices at random, by the seed, into those to learn from and those to watch.

    Example:
        >>> learn, watch = split_held_out(8, 0.25, seed=0)
        >>> len(learn), len(watch), sorted(learn + watch) == list(range(8))
        (6, 2, True)
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    watched = min(round(count * share), count - 1)
    return sorted(order[watched:]), sorted(order[:watched])
