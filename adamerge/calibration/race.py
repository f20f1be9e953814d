"""A race of merges on unlabeled rows, by successive halving: the best half of them goes on with twice as many rows."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from adamerge.calibration.calibrated_merge import CalibratedMerge
from adamerge.transforms import DcMerge, Isotropic, TaskSingularVectors, Ties, Transform, Wudi
from adamerge.types import ConfigError

Judge: TypeAlias = Callable[[str, int], float]
"""(name of a merge, rows per task) → its mean divergence from the experts on the first so many rows of each task."""


class CentreChoice(ABC):
    """How a centre is chosen among merges."""

    @property
    @abstractmethod
    def contestants(self) -> Sequence[CalibratedMerge | Transform]:
        """The merges beside the average and task arithmetic."""


def _cheap() -> list[CalibratedMerge | Transform]:
    return [Ties(reduce="mean"), TaskSingularVectors(), DcMerge(), Isotropic(), Wudi()]


@dataclass(frozen=True)
class Auto(CentreChoice):
    """Options of `centre: auto`: finished merges race on held-out unlabeled rows, and the winner is the centre.

    The average and task arithmetic take part always.

    Attributes:
        merges: The other merges, cheap ones by default; the others only if named.
        scales: Factors of each merge's published scale, at each of which it takes part.
        rows: Rows per task of the first round.
        share: Share of the time of learning that the race may take. Where all scales would take more,
            only the scale nearest to 1 takes part; a note reports it.
    """

    merges: list[CalibratedMerge | Transform] = field(default_factory=_cheap)
    scales: list[float] = field(default_factory=lambda: [0.7, 1.0, 1.3])
    rows: int = 8
    share: float = field(default=0.15, repr=False)  # stored centres have the rest in their cache key

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ConfigError(f"centre.scales: expected finite numbers above 0, at least one, found {self.scales}.")
        if self.rows < 1:
            raise ConfigError(f"centre.rows: expected at least 1, found {self.rows}.")
        if not self.share > 0:
            raise ConfigError(f"centre.share: expected a number above 0, found {self.share}.")

    @property
    def contestants(self) -> Sequence[CalibratedMerge | Transform]:
        """The merges beside the average and task arithmetic."""
        return self.merges


class Round(NamedTuple):
    """One round of a race.

    Attributes:
        rows: Rows per task.
        divergence: Mean divergence of each merge that took part, the best first.
    """

    rows: int
    divergence: Mapping[str, float]


def race(names: Sequence[str], judge: Judge, *, first: int, most: int, seed: int | None) -> list[Round]:
    """Let merges race; the winner is the first of the last round.

    Every round is judged on twice as many rows as the one before, and the better half (rounded up) goes on, until one
    is left or all rows were used. Of merges that are equal the one that a draw with the seed puts first is better, or
    the one that is named first; what is not a number is the worst.

    Args:
        names: The merges.
        judge: Measures one of them.
        first: Rows per task of the first round.
        most: Largest number of rows that a task has.
        seed: Random seed of the draw; None for the order of the names.

    Example:
        >>> rounds = race(["a", "b", "c"], lambda name, rows: ord(name) / rows, first=8, most=20, seed=0)
        >>> [(one.rows, list(one.divergence)) for one in rounds]
        [(8, ['a', 'b', 'c']), (16, ['a', 'b'])]

    Reference:
        Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.
    """
    drawn = list(names) if seed is None else random.Random(seed).sample(list(names), len(names))
    rounds: list[Round] = []
    rows, left = first, drawn
    while True:
        found = {name: judge(name, min(rows, most)) for name in left}
        order = sorted(left, key=lambda name: (math.isnan(found[name]), found[name]))  # stable: the draw decides ties
        rounds.append(Round(min(rows, most), {name: found[name] for name in order}))
        left = [name for name in drawn if name in order[: -(-len(order) // 2)]]
        if rows >= most or len(left) == 1:
            return rounds
        rows *= 2


def passes(merges: int, first: int, most: int) -> int:
    """Count the forward passes of a race, in rows per task.

    Args:
        merges: Number of merges.
        first: As for `race`.
        most: As for `race`.

    Example:
        >>> passes(19, 8, 64), passes(7, 8, 64), passes(1, 8, 64)
        (664, 184, 8)
    """
    total, rows = merges * min(first, most), first
    while rows < most and (merges := -(-merges // 2)) > 1:
        rows *= 2
        total += merges * min(rows, most)
    return total


def scales_in_time(auto: Auto, most: int, steps: int, batch: int) -> tuple[list[float], float]:
    """Choose the scales at which merges race: all, or the one nearest to 1 where all take too long.

    Args:
        auto: Options of the race.
        most: Largest number of rows that a task has.
        steps: Of learning; with 0 there is no limit.
        batch: Rows per task of a step. Forward and backward, a row takes about as long as three forward passes.

    Returns:
        The scales, and the time of a race at all of them as a share of that of learning.

    Example:
        >>> scales_in_time(Auto(), most=64, steps=100, batch=16)[0], scales_in_time(Auto(), 64, 100, 4)[0]
        ([0.7, 1.0, 1.3], [1.0])
    """
    merges = 1 + (1 + len(auto.contestants)) * len(auto.scales)
    share = passes(merges, auto.rows, most) / (3 * steps * batch) if steps else 0.0
    return auto.scales if share <= auto.share else [min(auto.scales, key=lambda scale: abs(scale - 1))], share
