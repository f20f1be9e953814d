"""Learn coefficients: the parts put together for Lightning's Trainer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from adamerge.calibration.agreement import HeldOut, hold_out
from adamerge.calibration.targets import Targets, TargetSettings, compute_targets
from adamerge.data.rows import Rows, Subset
from adamerge.data.schedule import Schedule, split_held_out
from adamerge.data.settings import Batching
from adamerge.learning.interrupt import StopOnInterrupt
from adamerge.learning.keep_best import KeepBest
from adamerge.learning.merge_module import MergeModule
from adamerge.learning.settings import Learning, check_learning
from adamerge.learning.trainer import build_trainer, without_advice
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.objectives import LogitAlignment, Objective
from adamerge.optim import Selection
from adamerge.optim.selections import as_json, from_json
from adamerge.results.evaluate import mean
from adamerge.storage.kept import Keeper
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

    def as_json(self, groups: Sequence[str], experts: Sequence[str]) -> dict[str, object]:
        """Everything but the coefficients, with the names of their rows and columns."""
        found: dict[str, object] = {"best_step": self.best_step, "history": self.history}
        if self.certificate:
            found["certificate"] = {**self.certificate, "converged": self.converged}
        if self.selections:
            found["selections"] = as_json(self.selections, groups, experts)
        return found

    @classmethod
    def from_json(
        cls, found: Mapping[str, Any], coefficients: Coefficients, groups: Sequence[str], experts: Sequence[str]
    ) -> "Learned":
        """What `as_json` wrote, of a run that was not interrupted, with its coefficients."""
        certificate = dict(found.get("certificate", {}))
        converged = bool(certificate.pop("converged", False))
        selections = from_json(found.get("selections", []), groups, experts)
        return cls(coefficients, found["best_step"], found["history"], False, certificate, converged, selections)


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
    check_learning(learning, len(model.vectors.experts))
    if learning.steps:
        targets = targets if isinstance(targets, Goals) else goals_of(model, objective, calibration, targets)
        held_out = held_out or hold_out(model, calibration.watch, learning.batching.micro_batch, targets.watch)
    return descend(
        model,
        objective,
        calibration,
        learning,
        held_out or HeldOut({}, {}, {}, learning.batching.micro_batch),
        targets if isinstance(targets, Goals) else Goals({}, {}),
        checkpoints=checkpoints,
        resume=resume,
        tell=tell,
        also=also,
    )


def descend(
    model: MergedModel,
    objective: Objective,
    calibration: Calibration,
    learning: Learning,
    held_out: HeldOut,
    goals: Goals,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    tell: Callable[[str], None] | None = None,
    also: Sequence[Callback] = (),
) -> Learned:
    """Learn as `learn` does, by settings that are checked and with everything asked of the experts.

    Args:
        model: As for `learn`, and the other arguments that are not named here.
        objective: As for `learn`.
        calibration: As for `learn`.
        learning: Settings that `check_learning` accepts.
        held_out: The experts' predictions on the held-out rows.
        goals: What the experts say, for objectives that compare with it.
        checkpoints: As for `learn`.
        resume: As for `learn`.
        tell: As for `learn`.
        also: As for `learn`.
    """
    options = {**learning.trainer, "max_steps": learning.steps}
    start = uniform(model, learning.init) if isinstance(learning.init, float | int) else learning.init
    if learning.optimizer is None or learning.steps == 0:
        return Learned(learning.feasible.project(start), 0, [], interrupted=False)
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
        build_scheduler=learning.build_scheduler,
        micro_batch=learning.batching.micro_batch,
    )
    callbacks: list[Callback] = [best, *also]
    stop = StopOnInterrupt(checkpoints / LAST) if checkpoints else None
    if checkpoints and stop:
        every = learning.watching.every
        callbacks += [stop, ModelCheckpoint(checkpoints, LAST.removesuffix(".ckpt"), every_n_train_steps=every)]
    trainer = _fit(module, callbacks, options, checkpoints / LAST if resume and checkpoints else None)
    if not best.history:
        raise ConfigError(f"trainer.max_time: {options.get('max_time')} was over before the first step; give it more.")
    return Learned(
        best.best,
        best.best_step,
        best.history,
        stop is not None and stop.interrupted,
        best.certificate,
        best.done(trainer) and torch.equal(best.best, module.coefficients.detach().cpu()),
        best.selections,
    )


def goals_of(
    model: MergedModel,
    objective: Objective,
    calibration: Calibration,
    folder: Path | None,
    keeper: Keeper | None = None,
) -> Goals:
    """What the experts say of their rows, computed or read from the folder; nothing if the objective needs nothing."""
    if not objective.uses_targets:
        return Goals({}, {})
    settings = target_settings(objective)
    parts = ((calibration.learn, "learn"), (calibration.watch, "watch"))
    return Goals(
        *(compute_targets(model, rows, settings, folder / name if folder else None, keeper) for rows, name in parts)
    )


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
    with without_advice():
        trainer = build_trainer(options, callbacks)
        try:
            trainer.fit(module, ckpt_path=resume if resume and resume.exists() else None)
        except FloatingPointError as error:  # of an optimiser that looks at the loss itself
            raise ConfigError(f"step {trainer.global_step}: {error}") from error
    return trainer


def _measure(
    model: MergedModel,
    held_out: HeldOut,
    objective: Objective,
    task_weights: Mapping[str, float],
    coefficients: Coefficients,
) -> dict[str, float]:
    """Mean agreement, and the objective that is learned, both on held-out rows."""
    seen = held_out.measure(model, coefficients, objective)
    weighted = {task: task_weights.get(task, 1.0) * value for task, value in seen.objective.items()}
    return {"agreement": mean(seen.agreement), "objective": mean(weighted)}
