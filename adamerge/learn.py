"""Learning: the parts put together for Lightning's Trainer."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from adamerge.agreement import HeldOut, hold_out
from adamerge.callbacks import KeepBest, Progress, StopOnInterrupt, Watching, WholeCheckpoints
from adamerge.data import Batching, Rows, Schedule, Subset, split_held_out
from adamerge.evaluate import mean, uniform
from adamerge.feasible import FeasibleSet, Unbounded
from adamerge.merged import MergedModel
from adamerge.module import BuildScheduler, MergeModule
from adamerge.objectives import LogitAlignment, Objective, Regulariser
from adamerge.optim import (
    BuildOptimizer,
    Circumstance,
    Descent,
    FrankWolfeOptimizer,
    OptimizerKind,
    Selection,
    build_optimizer,
    check_pair,
)
from adamerge.targets import Targets, TargetSettings, compute_targets
from adamerge.types import Coefficients, ConfigError

_ADVICE = re.compile(
    r".*(GPU available|TPU available|\bTip: |`Trainer.fit` stopped|Restor(ing|ed) (all )?states|\(treespec, LeafSpec\)|"
    r"Checkpoint directory .* exists and is not empty|Using bfloat16 Automatic|your dataloader is not resumable)"
)

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
        certificate: What the optimiser says of the step that led to them: the loss there, the gap (Frank-Wolfe) or the
            residual of the projected gradient, and how often the loss was evaluated until then. Empty for torch's
            optimisers, and for the start.
        converged: Whether it was done with them: no further step on the same rows would have changed anything.
        selections: What Frank-Wolfe selected until then, with the weights that the coefficients give.
    """

    coefficients: Coefficients
    best_step: int
    history: list[dict[str, float]]
    interrupted: bool
    certificate: dict[str, float] = field(default_factory=dict[str, float])
    converged: bool = False
    selections: list[Selection] = field(default_factory=list[Selection])


@dataclass(frozen=True)
class Calibration:
    """Calibration rows of every task, divided into what is learned from and what is watched.

    Attributes:
        learn: Rows that steps take, by task.
        watch: The held-out ones, by task.
    """

    learn: Mapping[str, Rows]
    watch: Mapping[str, Rows]


class Goals(NamedTuple):
    """What the experts say, by task.

    Attributes:
        learn: Of the rows that are learned from.
        watch: Of the held-out ones.
    """

    learn: Mapping[str, Targets]
    watch: Mapping[str, Targets]


@dataclass(frozen=True)
class Learning:
    """How coefficients are learned, whatever the objective.

    Attributes:
        optimizer: Moves the coefficients: options such as FrankWolfe(), or any of torch's, called with them; None where
            nothing is learned.
        scheduler: Called with the optimiser; cosine decays to 0 over max_steps, None keeps the learning rate.
        feasible: Where coefficients may live.
        init: Coefficient of every expert at the start, or a table (G, K).
        batching: Rows a step.
        watching: How the best iterate is chosen.
        seed: Of the order of the rows.
        task_weights: Factor of each task's objective; 1 where absent.
        regulariser: A pull of the coefficients towards the start.
        trainer: Arguments of Lightning's Trainer, `max_steps` among them; with 0 the start is the result.
    """

    optimizer: Descent | BuildOptimizer | None
    scheduler: Literal["cosine"] | BuildScheduler | None = None
    feasible: FeasibleSet = field(default_factory=Unbounded)
    init: float | Coefficients = 0.3
    batching: Batching = field(default_factory=Batching)
    watching: Watching = field(default_factory=Watching)
    seed: int = 0
    task_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    regulariser: Regulariser | None = None
    trainer: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def steps(self) -> int:
        """Optimiser steps at most."""
        return int(str(self.trainer.get("max_steps", 100)))


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
    targets: Path | Goals | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    tell: Callable[[str], None] | None = None,
    also: Sequence[Callback] = (),
) -> Learned:
    """Learn coefficients from unlabeled rows.

    Args:
        model: The experts, their task vectors and the grouping.
        objective: What is made small.
        calibration: The rows.
        learning: How.
        held_out: The experts' predictions on the held-out rows, if they are known already.
        targets: What the experts say, for objectives that compare with it, or a folder where it is kept; None keeps
            none.
        checkpoints: Folder for the checkpoint that a run resumes from; none is written by default.
        resume: Go on from that checkpoint.
        tell: Called with a line of text after each look at the held-out rows.
        also: Callbacks of Lightning's Trainer beside our own.

    Returns:
        The best iterate, the start among them.

    Raises:
        ConfigError: The Trainer was asked for something that would alter the gradient silently, or the loss or a
            coefficient is no longer finite.
    """
    options = {**learning.trainer, "max_steps": learning.steps}
    check_learning(learning, len(model.vectors.experts))
    start = uniform(model, learning.init) if isinstance(learning.init, float | int) else learning.init
    if learning.optimizer is None or learning.steps == 0:
        return Learned(learning.feasible.project(start), 0, [], interrupted=False)
    goals = targets if isinstance(targets, Goals) else goals_of(model, objective, calibration, targets)
    held_out = held_out or hold_out(model, calibration.watch, learning.batching.micro_batch)
    held_out = replace(held_out, targets=goals.watch)
    best = KeepBest(
        (lambda c: _measure(model, held_out, objective, learning.task_weights, c)) if held_out else None,
        learning.watching,
        tell or (lambda line: None),
        same_rows=learning.batching.batch_size is None,
    )
    module = MergeModule(
        model,
        objective,
        calibration.learn,
        Schedule(learning.seed, learning.batching.batch_size),
        start,
        learning.feasible,
        learning.optimizer,
        task_weights=learning.task_weights,
        targets=goals.learn,
        regulariser=learning.regulariser,
        build_scheduler=_scheduler(learning),
        micro_batch=learning.batching.micro_batch,
    )
    callbacks: list[Callback] = [best, *also]
    stop = StopOnInterrupt(checkpoints / LAST) if checkpoints else None
    if checkpoints and stop:
        every = learning.watching.every
        callbacks += [stop, ModelCheckpoint(checkpoints, LAST.removesuffix(".ckpt"), every_n_train_steps=every)]
    if options.get("enable_progress_bar", True):
        callbacks.append(Progress())
    trainer = _fit(module, callbacks, options, checkpoints / LAST if resume and checkpoints else None)
    if not best.history:
        raise ConfigError(f"trainer.max_time: {options.get('max_time')} was over before the first step; give it more.")
    (optimizer,) = trainer.optimizers
    selections = optimizer.selections(best.best) if isinstance(optimizer, FrankWolfeOptimizer) else []
    return Learned(
        best.best,
        best.best_step,
        best.history,
        stop is not None and stop.interrupted,
        best.certificate,
        best.done(trainer) and torch.equal(best.best, module.coefficients.detach().cpu()),
        [selection for selection in selections if selection.first_step < best.best_step],
    )


def _scheduler(learning: Learning) -> BuildScheduler | None:
    if learning.scheduler != "cosine":
        return learning.scheduler
    return partial(CosineAnnealingLR, T_max=learning.steps)


def goals_of(model: MergedModel, objective: Objective, calibration: Calibration, folder: Path | None) -> Goals:
    """What the experts say of their rows, computed or read from the folder; nothing if the objective needs nothing."""
    if not objective.uses_targets:
        return Goals({}, {})
    settings = target_settings(objective)
    parts = ((calibration.learn, "learn"), (calibration.watch, "watch"))
    return Goals(*(compute_targets(model, rows, settings, folder / name if folder else None) for rows, name in parts))


def target_settings(objective: Objective) -> TargetSettings:
    """What must be kept of the experts' outputs: of a large vocabulary all words where the likeliest do not suffice."""
    aligned = [part for part in objective.parts if isinstance(part, LogitAlignment)]
    temperatures = {part.temperature for part in aligned} or {1.0}
    return TargetSettings(
        objective.layers,
        whole=len(temperatures) > 1 or any(part.form == "mse" for part in aligned),
        tail=min((part.tail for part in aligned), default=1e-3),
        temperature=min(temperatures),
    )


def _fit(module: MergeModule, callbacks: list[Callback], options: Mapping[str, object], resume: Path | None) -> Trainer:
    with _without_advice():
        trainer = _trainer(options, callbacks)
        trainer.fit(module, ckpt_path=resume if resume and resume.exists() else None)
    return trainer


def _trainer(options: Mapping[str, object], callbacks: list[Callback]) -> Trainer:
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    ours = {"devices": 1, "logger": False, "enable_model_summary": False, "enable_checkpointing": checkpoints}
    return Trainer(**{**ours, **options}, callbacks=callbacks, plugins=[WholeCheckpoints()])  # pyright: ignore


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep to itself what Lightning advises everyone: other losses, data loaders and loggers than we have."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")

    def wanted(record: logging.LogRecord) -> bool:
        return not _ADVICE.search(record.getMessage())

    logger.addFilter(wanted)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_ADVICE.pattern)
            yield
    finally:
        logger.removeFilter(wanted)


def _measure(
    model: MergedModel,
    held_out: HeldOut,
    objective: Objective,
    task_weights: Mapping[str, float],
    coefficients: Coefficients,
) -> dict[str, float]:
    """Mean agreement, and the objective that is learned, both on held-out rows."""
    with torch.no_grad():
        merged = model.vectors.combine(coefficients, model.grouping)
        agreement = mean(held_out.agreement(model, merged))
        objectives = held_out.objective(model, merged, objective)
        weighted = {task: task_weights.get(task, 1.0) * value for task, value in objectives.items()}
        return {"agreement": agreement, "objective": mean(weighted)}


def check_learning(learning: Learning, experts: int) -> None:
    """Refuse now what Lightning and torch would refuse only when learning begins, and what is not defined.

    Args:
        learning: How coefficients are to be learned.
        experts: K, how many task vectors there are.

    Raises:
        ConfigError: An option of the Trainer, the optimiser, the scheduler or the set cannot be used, alone or with
            the others.
    """
    options = learning.trainer
    if learning.steps < 0:
        raise ConfigError(f"trainer.max_steps: expected 0 (nothing is learned) or more, got {learning.steps}.")
    if learning.steps == 0:
        return
    if learning.optimizer is None:
        raise ConfigError("optimizer: expected an optimiser, for example Adam, got null.")
    if options.get("accumulate_grad_batches", 1) != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches: would merge once a micro-batch. Set data.batch_size as large as need be: "
            "data.micro_batch splits it inside a step."
        )
    learning.feasible.check_experts(experts)
    if isinstance(learning.optimizer, Descent):
        check_pair(learning.optimizer.kind, learning.feasible, _circumstances(learning, learning.optimizer))
    if _is_fp16(learning):
        raise ConfigError(
            "trainer.precision: fp16 would need a scaling of its own for the merge; use bf16-mixed or 32-true."
        )
    if options.get("devices", 1) != 1 or options.get("num_nodes", 1) != 1:
        raise ConfigError("trainer.devices: one device learns; choose it with CUDA_VISIBLE_DEVICES.")
    optimizer = _built(learning, learning.optimizer, experts)
    if isinstance(optimizer, LBFGS):
        check_pair(OptimizerKind.TORCH_LBFGS, learning.feasible, _circumstances(learning, learning.optimizer))


def _built(learning: Learning, chosen: Descent | BuildOptimizer, experts: int) -> Optimizer:
    """Trainer, optimiser and scheduler, on coefficients that nothing is done with; returns the optimiser.

    Raises:
        ConfigError: One of them refuses what it was given.
    """
    key = "trainer"
    try:
        with _without_advice():
            _trainer(learning.trainer, [])
        key = "optimizer"
        probe = torch.nn.Parameter(learning.feasible.project(torch.zeros(1, experts)))
        optimizer = build_optimizer(chosen, probe, learning.feasible)
        key = "lr_scheduler"
        scheduler = _scheduler(learning)
        if scheduler:
            scheduler(optimizer)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from error
    return optimizer


def _circumstances(learning: Learning, optimizer: Descent | BuildOptimizer) -> list[Circumstance]:
    precision = str(learning.trainer.get("precision", ""))
    idle = isinstance(optimizer, Descent) and not optimizer.uses_lr
    there = {
        Circumstance.CLIPPING: bool(learning.trainer.get("gradient_clip_val")),
        Circumstance.FP16: _is_fp16(learning),
        Circumstance.BF16: precision.startswith("bf16"),
        Circumstance.MINI_BATCHES: learning.batching.batch_size is not None,
        Circumstance.IDLE_SCHEDULER: learning.scheduler is not None and idle,
    }
    return [circumstance for circumstance, is_so in there.items() if is_so]


def _is_fp16(learning: Learning) -> bool:
    return str(learning.trainer.get("precision", "")) in ("16", "16-mixed", "16-true")
