"""What happens between steps: watch held-out rows, keep the best iterate, checkpoint, stop when asked to."""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal, TypeAlias

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import CheckpointIO

from adamerge.files import partial_name, sync
from adamerge.types import Coefficients, ConfigError

Measure: TypeAlias = Callable[[Coefficients], Mapping[str, float]]
"""Coefficients → what held-out rows say of them: "agreement" and "objective", each the mean over tasks."""


@dataclass(frozen=True)
class Watching:
    """How the best iterate is chosen.

    Attributes:
        monitor: agreement (share of held-out rows on which merged model and expert predict the same), the objective on
            held-out rows, or last (take the last step, as published).
        every: Steps between two looks at the held-out rows.
        patience: Looks without a better one after which learning stops; null never stops early.
    """

    monitor: Literal["agreement", "objective", "last"] = "agreement"
    every: int = 10
    patience: int | None = 10

    def __post_init__(self) -> None:
        """Check the numbers."""
        for key, value in (("every", self.every), ("patience", self.patience)):
            if value is not None and value < 1:
                raise ConfigError(f"watch.{key}: expected at least 1, got {value}.")


class KeepBest(Callback):
    """Watches held-out rows every few steps, keeps the best coefficients, and stops when they get no better.

    The start counts as an iterate. Equal agreement is told apart by the objective. Its state is part of a checkpoint.

    Args:
        measure: Measures coefficients on held-out rows; None where there are none.
        watching: What counts as better, and how often to look.
        tell: Called with a line of text after each look.

    Attributes:
        history: What was seen at each look: step, loss, agreement, objective, range of the coefficients.
        best_step: The step of the best coefficients; the last one where nothing can be measured.
        best: The best coefficients, (G, K).
    """

    def __init__(self, measure: Measure | None, watching: Watching, tell: Callable[[str], None]) -> None:
        self._measure, self._watching, self._tell = measure, watching, tell
        self.history: list[dict[str, float]] = []
        self.best_step = 0
        self.best = torch.empty(0)
        self._best_rank: list[float] = []
        self._clock = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._look(trainer, pl_module, {})
        trainer.should_stop = trainer.should_stop or self._stale()
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step % self._watching.every and trainer.global_step != trainer.max_steps:
            return
        steps = trainer.global_step - self.history[-1]["step"]
        seconds = (time.perf_counter() - self._clock) / max(1, steps)
        self._look(trainer, pl_module, {"loss": float(trainer.callback_metrics["loss"]), "s/step": seconds})
        trainer.should_stop = trainer.should_stop or self._stale()
        self._clock = time.perf_counter()

    def _look(self, trainer: Trainer, pl_module: LightningModule, learned: dict[str, float]) -> None:
        coefficients = pl_module.get_parameter("coefficients").detach()
        seen = dict(self._measure(coefficients)) if self._measure else {}
        extent = {"c_min": coefficients.min().item(), "c_max": coefficients.max().item()}
        self.history.append({"step": trainer.global_step, **learned, **seen, **extent})
        rank = self._rank(trainer.global_step, seen)
        if rank > self._best_rank:
            self._best_rank, self.best_step, self.best = rank, trainer.global_step, coefficients.cpu().clone()
        if learned and seen:
            pl_module.log_dict({"agreement": seen["agreement"], "s/step": learned["s/step"]}, prog_bar=True)
        self._tell("  ".join(f"{key} {value:.4g}" for key, value in self.history[-1].items()))

    def _rank(self, step: int, seen: dict[str, float]) -> list[float]:
        """What makes an iterate better than another: a list that compares as greater."""
        if not seen or self._watching.monitor == "last":
            return [step]
        return [seen["agreement"], -seen["objective"]] if self._watching.monitor == "agreement" else [-seen["objective"]]

    def _stale(self) -> bool:
        """Whether too many looks have passed since the best one."""
        looks = [entry["step"] for entry in self.history]
        since = len(looks) - 1 - looks.index(self.best_step)
        return self._watching.patience is not None and since >= self._watching.patience

    def state_dict(self) -> dict[str, object]:
        return {"history": self.history, "step": self.best_step, "best": self.best, "rank": self._best_rank}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.history, self.best_step = state_dict["history"], state_dict["step"]  # pyright: ignore
        self.best, self._best_rank = state_dict["best"], state_dict["rank"]  # pyright: ignore


class StopOnInterrupt(Callback):
    """Ctrl-C (or SIGTERM) lets the step under way finish, writes a checkpoint and stops; a second one stops at once.

    Args:
        checkpoint: Where to write it.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._former: dict[int, object] = {}
        self.interrupted = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._former[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.interrupted:
            trainer.should_stop = True
            trainer.save_checkpoint(self._checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # pyright: ignore
        self._former = {}


class WholeCheckpoints(CheckpointIO):
    """Checkpoints that are complete or absent, and that are read without unpickling anything but tensors and numbers."""

    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_name(path).open("wb") as file:
            torch.save(checkpoint, file)
            sync(file)
        partial_name(path).replace(path)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
