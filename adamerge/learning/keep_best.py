"""What happens between steps: watch held-out rows, keep the best iterate, checkpoint, stop when asked to."""

import io
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Literal, TypeAlias

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.plugins.io import CheckpointIO
from typing_extensions import override

from adamerge.optim import FrankWolfeOptimizer, SearchingOptimizer, Selection
from adamerge.storage.atomic_files import whole_file
from adamerge.types import Coefficients, ConfigError

Measure: TypeAlias = Callable[[Coefficients], Mapping[str, float]]
"""Coefficients → what held-out rows say of them: "agreement" and "objective", each the mean over tasks."""
Numbers: TypeAlias = dict[str, int | str | float | dict[str, float]]
"""What Lightning shows beside its bar."""


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
        same_rows: Whether all steps see the same rows, so that an optimiser that is done stays done: then stop.

    Attributes:
        history: What was seen at each look: step, loss, agreement, objective, range of the coefficients, and the
            optimiser's certificate if it gives one; all finite, else learning ends with a ConfigError.
        best_step: The step of the best coefficients; the last one where nothing can be measured.
        best: The best coefficients, (G, K).
        certificate: The optimiser's, of the step that led to them; empty for the start.
        selections: What Frank-Wolfe selected until then.
    """

    def __init__(
        self, measure: Measure | None, watching: Watching, tell: Callable[[str], None], *, same_rows: bool = False
    ) -> None:
        self._measure, self._watching, self._tell, self._same_rows = measure, watching, tell, same_rows
        self.history: list[dict[str, float]] = []
        self.best_step: int = 0
        self.best: Coefficients = torch.empty(0)
        self.certificate: dict[str, float] = {}
        self.selections: list[Selection] = []
        self._best_rank: list[float] = []
        self._clock = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._look(trainer, pl_module, {})
        trainer.should_stop = trainer.should_stop or self._stale() or self.done(trainer)
        self._clock = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        done = self.done(trainer)
        if trainer.global_step % self._watching.every and trainer.global_step != trainer.max_steps and not done:
            return
        steps = trainer.global_step - self.history[-1]["step"]
        seconds = (time.perf_counter() - self._clock) / max(1, steps)
        self._look(trainer, pl_module, {"loss": float(trainer.callback_metrics["loss"]), "s/step": seconds})
        shown = {key: self.history[-1][key] for key in ("agreement", "gap", "s/step") if key in self.history[-1]}
        pl_module.log_dict(shown, prog_bar=True)
        trainer.should_stop = trainer.should_stop or self._stale() or done
        self._clock = time.perf_counter()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history and trainer.global_step > self.history[-1]["step"]:  # stopped by the clock between two looks
            self._look(trainer, pl_module, {"loss": float(trainer.callback_metrics["loss"])})

    def done(self, trainer: Trainer) -> bool:
        """Whether the optimiser says that further steps would change nothing."""
        (optimizer,) = trainer.optimizers
        return self._same_rows and isinstance(optimizer, SearchingOptimizer) and optimizer.done

    def _look(self, trainer: Trainer, pl_module: LightningModule, learned: dict[str, float]) -> None:
        coefficients = pl_module.get_parameter("coefficients").detach()
        seen = dict(self._measure(coefficients)) if self._measure else {}
        extent = {"c_min": coefficients.min().item(), "c_max": coefficients.max().item()}
        certificate = _certificate(trainer)
        self.history.append({"step": trainer.global_step, **learned, **certificate, **seen, **extent})
        _check_finite(self.history[-1])
        rank = self._rank(trainer.global_step, seen)
        if rank > self._best_rank:
            self._best_rank, self.best_step, self.best = rank, trainer.global_step, coefficients.cpu().clone()
            self.certificate, self.selections = certificate, _selections(trainer)
        self._tell("  ".join(f"{key} {value:.4g}" for key, value in self.history[-1].items()))

    def _rank(self, step: int, seen: dict[str, float]) -> list[float]:
        """What makes an iterate better than another: a list that compares as greater."""
        if not seen or self._watching.monitor == "last":
            return [step]
        low = -seen["objective"]
        return [seen["agreement"], low] if self._watching.monitor == "agreement" else [low]

    def _stale(self) -> bool:
        """Whether too many looks have passed since the best one."""
        looks = [entry["step"] for entry in self.history]
        since = len(looks) - 1 - looks.index(self.best_step)
        return self._watching.patience is not None and since >= self._watching.patience

    @override
    def state_dict(self) -> dict[str, object]:
        best = {"step": self.best_step, "best": self.best, "rank": self._best_rank, "certificate": self.certificate}
        return {"history": self.history, **best, "selections": [asdict(selection) for selection in self.selections]}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.history, self.best_step = state_dict["history"], state_dict["step"]  # pyright: ignore
        self.best, self._best_rank = state_dict["best"], state_dict["rank"]  # pyright: ignore
        self.certificate = state_dict["certificate"]  # pyright: ignore
        self.selections = [Selection(**selection) for selection in state_dict["selections"]]  # pyright: ignore


def _certificate(trainer: Trainer) -> dict[str, float]:
    """What the optimiser says of how far it has come, if it is one that does."""
    (optimizer,) = trainer.optimizers
    return dict(optimizer.certificate) if isinstance(optimizer, SearchingOptimizer) else {}


def _selections(trainer: Trainer) -> list[Selection]:
    (optimizer,) = trainer.optimizers
    return optimizer.selections() if isinstance(optimizer, FrankWolfeOptimizer) else []


def _check_finite(seen: Mapping[str, float]) -> None:
    bad = [key for key, value in seen.items() if not math.isfinite(value)]
    if bad:
        remedy = "Lower the optimiser's learning rate, or bound the coefficients (feasible: Box)."
        if seen["step"] == 0:
            remedy = "The models' outputs overflow before anything is learned: choose a smaller init or a wider dtype."
        raise ConfigError(f"step {seen['step']}: not a finite number: {', '.join(bad)}. {remedy}")


class StopOnInterrupt(Callback):
    """Ctrl-C (or SIGTERM) lets the step under way finish, writes a checkpoint and stops; a second one stops at once.

    Args:
        checkpoint: Where to write it.

    Attributes:
        interrupted: Whether someone asked to stop.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._former: dict[int, object] = {}
        self.interrupted = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._listen()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()  # once more: since setup, Lightning has put a handler of its own before SIGTERM's

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.interrupted:
            trainer.should_stop = True
            trainer.save_checkpoint(self._checkpoint, weights_only=False)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # others cannot have handlers
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            former = signal.signal(number, self._note)
            self._former.setdefault(number, former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise SystemExit(128 + number)  # of a KeyboardInterrupt Lightning would make exit code 1
        self.interrupted = True

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # pyright: ignore
        self._former = {}


class Progress(TQDMProgressBar):
    """Lightning's bar with steps, the time that is left and the numbers that count, in 80 columns."""

    BAR_FORMAT = "{n_fmt}/{total_fmt} {remaining}{postfix}"

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Numbers:
        seen = trainer.progress_bar_metrics
        formats = {"loss": ".3g", "agreement": ".3f", "gap": ".2g", "s/step": ".2g", "c_min": ".2f", "c_max": ".2f"}
        return {key: f"{seen[key]:{form}}" for key, form in formats.items() if key in seen}


class WholeCheckpoints(CheckpointIO):
    """Checkpoints that are complete or absent, and are read without unpickling anything but tensors and numbers."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        content = io.BytesIO()  # torch.save would report a full disk as an error of its own
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(Path(path)) as file:
            file.write(content.getbuffer())

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            raise ConfigError(f"{path}: the checkpoint is damaged; start anew in another run_dir ({error}).") from error

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
