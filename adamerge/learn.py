"""Learning: the parts put together for Lightning's Trainer."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from adamerge.agreement import HeldOut, hold_out
from adamerge.callbacks import KeepBest, StopOnInterrupt, Watching, WholeCheckpoints
from adamerge.data import Batching, Rows, Schedule, Subset, split_held_out
from adamerge.evaluate import mean, uniform
from adamerge.feasible import FeasibleSet, Unbounded
from adamerge.merged import MergedModel
from adamerge.module import BuildOptimizer, BuildScheduler, MergeModule
from adamerge.objectives import Objective
from adamerge.types import Coefficients, ConfigError

LAST = "last.ckpt"
"""Name of the checkpoint that a run resumes from."""


@dataclass(frozen=True, eq=False)
class Learned:
    """What learning found.

    Attributes:
        coefficients: Of the best iterate, fp32, (G, K).
        best_step: Its step.
        history: What was seen at each look at the held-out rows.
        interrupted: Whether someone asked to stop before the end.
    """

    coefficients: Coefficients
    best_step: int
    history: list[dict[str, float]]
    interrupted: bool


@dataclass(frozen=True)
class Calibration:
    """Calibration rows of every task, divided into what is learned from and what is watched.

    Attributes:
        learn: Rows that steps take, by task.
        watch: The held-out ones, by task.
    """

    learn: Mapping[str, Rows]
    watch: Mapping[str, Rows]


@dataclass(frozen=True)
class Learning:
    """How coefficients are learned, whatever the objective.

    Attributes:
        optimizer: Called with the coefficients.
        scheduler: Called with the optimiser; None keeps the learning rate.
        feasible: Where coefficients may live.
        initial: Coefficient of every expert at the start, or a table (G, K).
        batching: Rows a step.
        watching: How the best iterate is chosen.
        seed: Of the order of the rows.
        task_weights: Factor of each task's objective; 1 where absent.
        trainer: Arguments of Lightning's Trainer, `max_steps` among them.
    """

    optimizer: BuildOptimizer
    scheduler: BuildScheduler | None = None
    feasible: FeasibleSet = field(default_factory=Unbounded)
    initial: float | Coefficients = 0.3
    batching: Batching = field(default_factory=Batching)
    watching: Watching = field(default_factory=Watching)
    seed: int = 0
    task_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    trainer: Mapping[str, object] = field(default_factory=dict[str, object])


def divide(rows: Mapping[str, Rows], batching: Batching, seed: int) -> Calibration:
    """Hold out a share of every task's rows; a task with too few for one held-out row holds out none."""
    parts = {task: split_held_out(len(own), batching.held_out, seed) for task, own in rows.items()}
    return Calibration(
        {task: Subset(rows[task], learn) for task, (learn, _) in parts.items()},
        {task: Subset(rows[task], watch) for task, (_, watch) in parts.items() if watch},
    )


def learn(
    model: MergedModel,
    objective: Objective,
    calibration: Calibration,
    learning: Learning,
    *,
    held_out: HeldOut | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Learned:
    """Learn coefficients from unlabeled rows.

    Args:
        model: The experts, their task vectors and the grouping.
        objective: What is made small.
        calibration: The rows.
        learning: How.
        held_out: The experts' predictions on the held-out rows, if they are known already.
        checkpoints: Folder for the checkpoint that a run resumes from; none is written by default.
        resume: Go on from that checkpoint.
        tell: Called with a line of text after each look at the held-out rows.

    Returns:
        The best iterate, the start among them.

    Raises:
        ConfigError: The Trainer was asked for something that would alter the gradient silently.
    """
    options = {"max_steps": 100, **learning.trainer}
    _check_trainer(options)
    held_out = held_out or hold_out(model, calibration.watch, learning.batching.micro_batch)
    best = KeepBest(
        (lambda c: _measure(model, held_out, objective, c)) if held_out else None,
        learning.watching,
        tell or (lambda line: None),
    )
    module = MergeModule(
        model,
        objective,
        calibration.learn,
        Schedule(learning.seed, learning.batching.batch_size),
        uniform(model, learning.initial) if isinstance(learning.initial, float | int) else learning.initial,
        learning.feasible,
        learning.optimizer,
        task_weights=learning.task_weights,
        build_scheduler=learning.scheduler,
        micro_batch=learning.batching.micro_batch,
    )
    callbacks: list[Callback] = [best]
    stop = StopOnInterrupt(checkpoints / LAST) if checkpoints else None
    if checkpoints and stop:
        every = learning.watching.every
        callbacks += [stop, ModelCheckpoint(checkpoints, LAST.removesuffix(".ckpt"), every_n_train_steps=every)]
    _fit(module, callbacks, options, checkpoints / LAST if resume and checkpoints else None)
    return Learned(best.best, best.best_step, best.history, stop is not None and stop.interrupted)


def _fit(module: MergeModule, callbacks: list[Callback], options: Mapping[str, object], resume: Path | None) -> None:
    quiet = {"logger": False, "enable_model_summary": False, "enable_checkpointing": len(callbacks) > 1}
    with warnings.catch_warnings():
        # Loading is done by then, batches are indices, and the steps are one epoch: Lightning's advice is not for us.
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        trainer = Trainer(**{**quiet, **options}, callbacks=callbacks, plugins=[WholeCheckpoints()])  # pyright: ignore
        trainer.fit(module, ckpt_path=resume if resume and resume.exists() else None)


def _measure(model: MergedModel, held_out: HeldOut, objective: Objective, coefficients: Coefficients) -> dict[str, float]:
    with torch.no_grad():
        merged = model.vectors.combine(coefficients, model.grouping)
        agreement = mean(held_out.agreement(model, merged))
        return {"agreement": agreement, "objective": mean(held_out.objective(model, merged, objective))}


def _check_trainer(options: Mapping[str, object]) -> None:
    if options.get("accumulate_grad_batches", 1) != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches: would merge once a micro-batch. Set data.batch_size as large as you like; "
            "data.micro_batch splits it inside a step."
        )
    if str(options.get("precision", "")) in ("16", "16-mixed", "16-true"):
        raise ConfigError("trainer.precision: fp16 would need a scaling of its own for the merge; use bf16-mixed or 32-true.")
