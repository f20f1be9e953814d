"""Own number of steps: a constant learning rate until held-out rows stop improving, then a short decay."""

import math
from collections.abc import Mapping, Sequence

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from adamerge.learning.keep_best import KeepBest
from adamerge.types import ConfigError


class StableDecay(LRScheduler):
    """Keep the learning rate until held-out rows stop improving, then let it fall linearly to 0; there learning ends.

    What is observed is the divergence from the experts on held-out rows, or the objective where that is unknown. The
    decay begins when the least value of the last `evaluations` is not below (1 − least) times the least value before,
    or when trainer.max_steps leaves no more than its steps. Without held-out rows only the latter begins it. Where all
    of the last values are above (1 + least) times the least before, learning ends at once: more steps would only fit
    the rows that they learn from.

    Args:
        optimizer: Optimiser whose learning rate it sets.
        least: Relative improvement below which held-out rows have stopped improving, and relative rise above which
            they become worse.
        evaluations: Number of evaluations over which it is measured; watch.every steps lie between two.
        decay: Steps of the decay as a share of the steps before it.
        last_epoch: Step to go on from; -1 is the start.

    Reference:
        Hu et al., MiniCPM, 2024 (warmup-stable-decay). That held-out rows begin the decay is ours.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        least: float = 0.02,
        evaluations: int = 2,
        decay: float = 0.25,
        last_epoch: int = -1,
    ) -> None:
        for key, value in (("least", least), ("decay", decay)):
            if not 0 < value < 1:
                raise ConfigError(f"{key}: expected a number between 0 and 1, found {value}.")
        if evaluations < 1:
            raise ConfigError(f"evaluations: expected at least 1, found {evaluations}.")
        self.least, self.evaluations, self.decay = least, evaluations, decay
        self.begins: float = math.inf
        self.last: float = math.inf
        super().__init__(optimizer, last_epoch)

    @property
    def ends(self) -> float:
        """Step with which learning ends."""
        if self.begins == math.inf:
            return math.inf
        return min(self.last, self.begins + self._steps)

    @property
    def _steps(self) -> int:
        """Steps of the decay, once it has begun."""
        return max(1, math.ceil(self.decay * self.begins))

    @override
    def get_lr(self) -> list[float | object]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the learning rate of the next step for each group of parameters."""
        begun = self.begins < self.last_epoch
        share = max(0.0, 1 - (self.last_epoch - self.begins) / self._steps) if begun else 1.0
        return [share * float(rate) for rate in self.base_lrs]

    def limit(self, steps: int) -> None:
        """Let the decay begin early enough to end with a given step."""
        self.begins = min(self.begins, max(1, math.floor(steps / (1 + self.decay))))

    def observe(self, step: int, values: Sequence[float]) -> None:
        """Begin the decay at a step if the values of the evaluations so far have stopped falling.

        Args:
            step: Steps so far.
            values: One value per evaluation so far, the start's first; lower is better.

        Example:
            >>> import torch
            >>> scheduler = StableDecay(torch.optim.SGD([torch.zeros(1)], lr=1.0), evaluations=1)
            >>> scheduler.observe(10, [0.4, 0.3])
            >>> scheduler.begins
            inf
            >>> scheduler.observe(20, [0.4, 0.3, 0.299])
            >>> scheduler.begins, scheduler.ends
            (20, 25)
            >>> scheduler.observe(22, [0.4, 0.3, 0.31, 0.32])
            >>> scheduler.ends
            22
        """
        former, latest = values[: -self.evaluations], values[-self.evaluations :]
        if former and min(latest) > (1 - self.least) * min(former):
            self.begins = min(self.begins, step)
        if former and min(latest) > (1 + self.least) * min(former):
            self.last = min(self.last, step)


class DecayWhenFlat(Callback):
    """Shows a `StableDecay` what held-out rows say, and ends learning with its decay.

    Args:
        best: Evaluates held-out rows; its own hooks run before these.
    """

    def __init__(self, best: KeepBest) -> None:
        self._best = best

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for scheduler in _of(trainer):
            scheduler.limit(trainer.max_steps)
            trainer.should_stop = trainer.should_stop or trainer.global_step >= scheduler.ends

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        step, history = trainer.global_step, self._best.history
        for scheduler in _of(trainer):
            if history[-1]["step"] == step and (values := observed(history)):
                scheduler.observe(step, values)
            trainer.should_stop = trainer.should_stop or step >= scheduler.ends


def _of(trainer: Trainer) -> list[StableDecay]:
    return [own.scheduler for own in trainer.lr_scheduler_configs if isinstance(own.scheduler, StableDecay)]


def observed(history: Sequence[Mapping[str, float]]) -> list[float]:
    """List the divergence on held-out rows by evaluation, or the objective; empty without held-out rows."""
    key = "divergence" if all("divergence" in seen for seen in history) else "objective"
    return [seen[key] for seen in history if key in seen]
