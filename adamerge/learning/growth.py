"""When a stage of learning ends and a finer one begins: as long as held-out rows say that stages pay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adamerge.learning.stable_decay import observed


@dataclass(frozen=True)
class Growth:
    """Decides once in a stage, from what was measured on held-out rows since its start.

    It decides with the first evaluation after the fewest steps. A finer stage follows at once if this one has paid: its
    least value is below (1 − least) times that of its start. The tensor-wise one has nothing to be compared with, and
    always pays. Otherwise learning goes on in this stage, to its end. To wait until a stage that pays is flat takes
    more steps and ends no better (docs/measured.md): the finer stage learns the same and more.

    Attributes:
        least: Relative fall that pays.
        fewest: Steps after which the next evaluation decides.
        most: Steps after which a finer stage would have no room.
        first: Whether this is the tensor-wise stage.

    Example:
        >>> history = [{"step": step, "divergence": value} for step, value in ((0, 0.4), (10, 0.3), (20, 0.29))]
        >>> growth = Growth(0.05, 20, 100, first=False)
        >>> growth.ends_stage(history[:2]), growth.ends_stage(history), growth.ends_stage(history[1:])
        (False, True, False)
    """

    least: float
    fewest: int
    most: int
    first: bool

    def ends_stage(self, history: Sequence[Mapping[str, float]], *, over: bool = False) -> bool:
        """Return whether the stage is over and a finer one begins.

        Args:
            history: What was measured at each evaluation of the stage, at its start first.
            over: Whether the stage is over anyhow, because the optimiser has converged.
        """
        values = observed(history)
        last = len(values) - 1
        late = (at for at in range(1, len(values)) if history[at]["step"] >= self.fewest)
        at = next(late, last if over else 0)
        if at <= 0 or history[at]["step"] > self.most:
            return False
        return self.first or self._below(min(values[: at + 1]), values[0])

    def _below(self, value: float, former: float) -> bool:
        return value < former - self.least * abs(former)
