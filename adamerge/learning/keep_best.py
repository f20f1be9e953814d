"""Evaluation on held-out rows between steps, choice of the best iterate, and early stopping."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from adamerge.optim import FrankWolfeOptimizer, SearchingOptimizer, Selection
from adamerge.types import Coefficients, ConfigError, check_types

Measure: TypeAlias = Callable[[Coefficients], Mapping[str, float]]
"""Coefficients → "divergence" (if known), "agreement" and "objective" on held-out rows, each the mean over tasks."""

Enough: TypeAlias = Callable[[Sequence[Mapping[str, float]]], bool]
"""What was measured so far → whether to stop."""

FROM_BASE = "from base"
"""Key of the divergence from the base, where it is a teacher, among these."""

Monitor: TypeAlias = Literal["divergence", "agreement", "objective", "last"]
"""What decides which iterate is the best."""


@dataclass(frozen=True)
class Watching:
    """Choice of the best iterate.

    Attributes:
        monitor: What is measured on held-out rows: divergence (mean KL from the expert's predictions; of equal ones, to
            three digits, the higher agreement counts), agreement (share of rows on which merged model and expert
            predict the same), the objective; or last (use the last step, as published).
        every: Steps between two evaluations on the held-out rows.
        average: Share of the former mean in an exponential moving average of the coefficients over the steps, which is
            then the iterate that is evaluated and kept; 0 takes the coefficients of the step itself.
        patience: Evaluations without improvement after which learning stops; null never stops early.
        guard: At the end, compare the best iterate, rounded as it would be written, on the held-out rows with the
            finished merges that could have been taken instead (the centre, the average, task arithmetic at its best
            scale), and export the best of them.
    """

    monitor: Monitor = "divergence"
    every: int = 10
    average: float = 0.0
    patience: int | None = 10
    guard: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_types(self)
        for key, value in (("every", self.every), ("patience", self.patience)):
            if value is not None and value < 1:
                raise ConfigError(f"watch.{key}: expected at least 1, found {value}.")
        if not 0 <= self.average < 1:
            raise ConfigError(f"watch.average: expected at least 0 and below 1, found {self.average}.")


class KeepBest(Callback):
    """Evaluates held-out rows every few steps, keeps the best coefficients, and stops without improvement.

    The start counts as an iterate. Equal iterates are compared by what else is measured. The state of this
    callback is part of a checkpoint.

    Args:
        measure: Evaluates coefficients on held-out rows; None without held-out rows.
        watching: Criterion and frequency of the evaluation.
        tell: Called with a line of text after each evaluation.
        same_rows: Whether all steps use the same rows; learning then stops when the optimiser has converged.
        former_steps: Steps of earlier stages, which the lines of text and errors count too.
        enough: Called with the history after each evaluation; learning stops where it returns True.

    Attributes:
        history: One entry per evaluation: step, loss, divergence, agreement, objective, range of the coefficients, and
            the optimiser's certificate if it has one; all finite, otherwise learning ends with a ConfigError.
        best_step: The step of the best coefficients; the last one without held-out rows.
        best: The best coefficients, (G, K).
        certificate: The optimiser's certificate after that step; empty for the start.
        selections: The vertices that Frank-Wolfe selected up to that step.
    """

    def __init__(
        self,
        measure: Measure | None,
        watching: Watching,
        tell: Callable[[str], None],
        *,
        same_rows: bool = False,
        former_steps: int = 0,
        enough: Enough = lambda history: False,
    ) -> None:
        self._measure, self._watching, self._tell, self._same_rows = measure, watching, tell, same_rows
        self._former_steps, self._enough = former_steps, enough
        self.history: list[dict[str, float]] = []
        self.best_step: int = 0
        self.best: Coefficients = torch.empty(0)
        self.certificate: dict[str, float] = {}
        self.selections: list[Selection] = []
        self._best_rank: list[float] = []
        self._mean: Coefficients = torch.empty(0)
        self._clock = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module, {})
            if not self._former_steps:  # a later stage starts where the former was logged
                self._log(trainer, self.history[-1])
        trainer.should_stop = trainer.should_stop or self._stale() or self.done(trainer)
        self._clock = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        done = self.done(trainer)
        self._follow(pl_module, trainer.global_step)
        extent = _extent(self._mean)
        pl_module.log_dict(extent, prog_bar=True, logger=False)
        loss = {"loss": float(trainer.callback_metrics["loss"])}
        if trainer.global_step % self._watching.every and trainer.global_step != trainer.max_steps and not done:
            self._log(trainer, {**loss, **extent})
            return
        steps = trainer.global_step - self.history[-1]["step"]
        seconds = (time.perf_counter() - self._clock) / max(1, steps)
        self._evaluate(trainer, pl_module, {**loss, "s/step": seconds})
        self._log(trainer, self.history[-1])
        wanted = ("divergence", "agreement", "gap", "s/step")
        shown = {key: value for key, value in self.history[-1].items() if key in wanted}
        pl_module.log_dict(shown, prog_bar=True, logger=False)
        trainer.should_stop = trainer.should_stop or self._stale() or done
        self._clock = time.perf_counter()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history and trainer.global_step > self.history[-1]["step"]:  # stopped by max_time
            known = {"loss": float(trainer.callback_metrics["loss"]), **_extent(self._mean)}  # and logged
            self._evaluate(trainer, pl_module, {"loss": known["loss"]})
            self._log(trainer, {key: value for key, value in self.history[-1].items() if key not in known})

    def done(self, trainer: Trainer) -> bool:
        """Return whether the optimiser has converged, so that further steps on the same rows would change nothing."""
        (optimizer,) = trainer.optimizers
        return self._same_rows and isinstance(optimizer, SearchingOptimizer) and optimizer.done

    def _follow(self, pl_module: LightningModule, step: int) -> None:
        """Move the mean towards the coefficients: m ← b·m + (1 − b)·c; b grows to its value at first."""
        kept = min(self._watching.average, step / (step + 3))
        now = pl_module.get_parameter("coefficients").detach()
        self._mean = torch.lerp(self._mean.to(now), now, 1 - kept) if self._mean.numel() and kept else now.clone()

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, learned: dict[str, float]) -> None:
        if not self._mean.numel():
            self._follow(pl_module, 0)
        coefficients = self._mean
        seen = dict(self._measure(coefficients)) if self._measure else {}
        certificate = _certificate(trainer)
        self.history.append({"step": trainer.global_step, **learned, **certificate, **seen, **_extent(coefficients)})
        shown = {**self.history[-1], "step": trainer.global_step + self._former_steps}
        _check_finite(shown)
        found = self._rank(trainer.global_step, seen)
        if found > self._best_rank:
            self._best_rank, self.best_step, self.best = found, trainer.global_step, coefficients.cpu().clone()
            self.certificate, self.selections = certificate, _selections(trainer)
        if trainer.global_step or not self._former_steps:  # a later stage starts where the former was told to be
            left = (trainer.max_steps - trainer.global_step) * shown.get("s/step", 0.0)
            more = [f"at most {left:.3g} s left of these steps"] if left > 0 else []
            self._tell("  ".join([*(f"{key} {value:.4g}" for key, value in shown.items()), *more]))

    def _log(self, trainer: Trainer, measured: Mapping[str, float]) -> None:
        """Write what was measured at this step alone: Lightning would repeat what was measured at former ones."""
        values = {key: value for key, value in measured.items() if key != "step"}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step + self._former_steps)
            logger.save()

    def _rank(self, step: int, seen: dict[str, float]) -> list[float]:
        """Return a list that compares as greater for a better iterate."""
        if not seen or self._watching.monitor == "last":
            return [step]
        return rank(seen, self._watching.monitor)

    def _stale(self) -> bool:
        """Return whether `patience` evaluations have passed since the best one, or it is enough."""
        evaluated = [entry["step"] for entry in self.history]
        since = len(evaluated) - 1 - evaluated.index(self.best_step)
        stale = self._watching.patience is not None and since >= self._watching.patience
        return stale or self._enough(self.history)

    @override
    def state_dict(self) -> dict[str, object]:
        best = {"step": self.best_step, "best": self.best, "rank": self._best_rank, "certificate": self.certificate}
        best["mean"] = self._mean.cpu()
        return {"history": self.history, **best, "selections": [asdict(selection) for selection in self.selections]}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.history, self.best_step = state_dict["history"], state_dict["step"]  # pyright: ignore
        self.best, self._best_rank = state_dict["best"], state_dict["rank"]  # pyright: ignore
        self.certificate = state_dict["certificate"]  # pyright: ignore
        self._mean = state_dict.get("mean", torch.empty(0))  # pyright: ignore
        self.selections = [Selection(**selection) for selection in state_dict["selections"]]  # pyright: ignore


def criterion(monitor: Monitor) -> Literal["divergence", "agreement"]:
    """Return what finished merges are compared by: agreement if iterates are, else the divergence."""
    return "agreement" if monitor == "agreement" else "divergence"


def rank(seen: Mapping[str, float], monitor: Monitor) -> list[float]:
    """Return a list that compares as greater for what is better on held-out rows.

    Divergences that are the same to three digits are closer than held-out rows can tell; there agreement decides.

    Args:
        seen: Divergence, if it is known, agreement and objective.
        monitor: What counts first.

    Example:
        >>> one = {"divergence": 0.05012, "agreement": 0.8, "objective": 0.0}
        >>> other = {"divergence": 0.05014, "agreement": 0.9, "objective": 0.0}
        >>> rank(one, "divergence") > rank(other, "divergence"), rank(one, "objective") > rank(other, "objective")
        (False, False)
    """
    agreement, low = seen["agreement"], -seen["objective"]
    if monitor == "divergence" and "divergence" in seen:
        exact = seen["divergence"]
        return [-float(f"{exact:.3g}"), agreement, -exact, low]
    return [low] if monitor == "objective" else [agreement, low]


def _extent(coefficients: Coefficients) -> dict[str, float]:
    """Return the least and the largest coefficient."""
    return {"c_min": coefficients.min().item(), "c_max": coefficients.max().item()}


def _certificate(trainer: Trainer) -> dict[str, float]:
    """Return the optimiser's certificate, or {} if it gives none."""
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
            remedy = "The models' outputs overflow before the first step: choose a smaller init or a wider dtype."
        raise ConfigError(f"step {seen['step']}: not a finite number: {', '.join(bad)}. {remedy}")
