"""Learning of coefficients with Lightning's Trainer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from adamerge.calibration.agreement import HeldOut, hold_out, objective_of
from adamerge.calibration.target_settings import target_settings
from adamerge.calibration.targets import Targets, compute_targets
from adamerge.data.rows import Rows, Subset
from adamerge.data.schedule import Schedule, held_out_rows, split_held_out
from adamerge.data.settings import Batching
from adamerge.experts.experts import KEEP
from adamerge.learning.checkpoints import LAST, every, newest
from adamerge.learning.interrupt import StopOnInterrupt
from adamerge.learning.keep_best import FROM_BASE, Enough, KeepBest
from adamerge.learning.learned import Learned
from adamerge.learning.merge_module import MergeModule
from adamerge.learning.movement import Movement
from adamerge.learning.ranks import SEEDS, numbers_alone
from adamerge.learning.settings import Learning, check_learning
from adamerge.learning.stable_decay import DecayWhenFlat
from adamerge.learning.step_costs import StepCosts
from adamerge.learning.trainer import build_trainer, check_joined, clock_of, process_count, rank_for, without_advice
from adamerge.merging.device import trainer_on
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.objectives import Objective
from adamerge.storage.kept import SILENT, Keeper
from adamerge.types import Coefficients, ConfigError


@dataclass(frozen=True)
class Calibration:
    """Calibration rows of every task, divided into rows to learn from and held-out rows.

    Attributes:
        learn: Rows that steps use, by task.
        watch: Held-out rows that choose, by task.
        judge: Held-out rows that choose nothing, of the tasks that have enough.
    """

    learn: Mapping[str, Rows]
    watch: Mapping[str, Rows]
    judge: Mapping[str, Rows] = field(default_factory=dict[str, Rows])


class Goals(NamedTuple):
    """The experts' outputs, by task.

    Attributes:
        learn: Outputs on the rows to learn from; empty if the objective does not compare with them.
        watch: Outputs on the held-out rows that choose.
        judge: Outputs on those that choose nothing.
    """

    learn: Mapping[str, Targets]
    watch: Mapping[str, Targets]
    judge: Mapping[str, Targets] = MappingProxyType({})


def divide(rows: Mapping[str, Rows], batching: Batching, seed: int) -> Calibration:
    """Hold out a share of every task's rows; a task with too few rows for one held-out row holds out none.

    Args:
        rows: Calibration rows by task.
        batching: Contains the share and its limits.
        seed: Random seed of the division.

    Returns:
        The divided rows.
    """
    learn, watch, judge = dict[str, Rows](), dict[str, Rows](), dict[str, Rows]()
    counts = held_out_rows({task: len(own) for task, own in rows.items()}, batching)
    for task, own in rows.items():
        learned, held = split_held_out(len(own), counts[task].all, seed)
        chosen, judging = split_held_out(len(held), counts[task].judging, seed)
        learn[task] = Subset(own, learned)
        for part, indices in ((watch, chosen), (judge, judging)):
            part.update({task: Subset(own, [held[i] for i in indices])} if indices else {})
    return Calibration(learn, watch, judge)


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
        objective: The objective to minimise.
        calibration: The rows.
        learning: Settings of learning.
        held_out: The experts' predictions on the held-out rows, if they are computed already.
        targets: The experts' outputs, which the divergence and some objectives compare with, or a folder that stores
            them; None stores none.
        checkpoints: Folder of the checkpoint from which a run resumes; none is written by default.
        resume: Whether to resume from that checkpoint.
        tell: Called with a line of text after each evaluation on the held-out rows, and at the end.
        also: More callbacks of Lightning's Trainer.

    Returns:
        The best iterate, including the start.

    Raises:
        ConfigError: A setting of the Trainer would change the gradient or names another device than that of the task
            vectors, or the loss or a coefficient is not finite.
    """
    check_learning(learning, len(model.vectors.experts))
    if learning.steps:
        size, bf16, temperature = learning.batching.micro_batch, learning.bf16, target_settings(objective).temperature
        if not isinstance(targets, Goals):
            targets = goals_of(model, objective, calibration, size, targets, bf16=bf16)
        held_out = held_out or hold_out(model, calibration.watch, size, targets.watch, temperature, bf16=bf16)
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
    former_steps: int = 0,
    enough: Enough = lambda history: False,
) -> Learned:
    """Learn as `learn` does, with checked settings and with the experts' outputs computed already.

    Args:
        model: As for `learn`.
        objective: As for `learn`.
        calibration: As for `learn`.
        learning: Settings that `check_learning` accepts.
        held_out: The experts' predictions on the held-out rows.
        goals: The experts' outputs, which the divergence and some objectives compare with.
        checkpoints: As for `learn`.
        resume: As for `learn`.
        tell: As for `learn`.
        also: As for `learn`.
        former_steps: Steps of earlier stages, which `tell` counts too.
        enough: Called with the history after each evaluation; learning stops where it returns True.

    Returns:
        As for `learn`.

    Raises:
        ConfigError: The loss or a coefficient is not finite, there was no time for a step, or the Trainer's options
            name another device than that of the task vectors.
    """
    start = uniform(model, learning.init) if isinstance(learning.init, float | int) else learning.init
    if learning.optimizer is None or learning.steps == 0:
        return Learned(learning.feasible.project(start), 0, [], interrupted=False)
    best = _keep_best(model, objective, learning, replace(held_out, targets=goals.watch), tell, former_steps, enough)
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
    movement, costs, clock = Movement(learning.feasible), StepCosts(), clock_of(learning.trainer)
    stop = StopOnInterrupt(checkpoints / LAST) if checkpoints else None
    saving = [stop, every(learning.watching.every, checkpoints)] if checkpoints and stop else []
    check_joined(process_count(learning.trainer))
    where = trainer_on(model.vectors.device, learning.trainer.get("accelerator", "auto"))
    if process_count(learning.trainer) > 1:
        where["devices"] = learning.trainer.get("devices", 1)  # of which Lightning gives each process its own
    options = {**learning.trainer, **where, "max_steps": learning.steps, "max_time": None}
    former = newest(checkpoints) if resume and checkpoints else None
    trainer = _fit(module, [costs, best, DecayWhenFlat(best), movement, clock, *also, *saving], options, former)
    if not best.history:
        raise ConfigError(
            f"trainer.max_time: {learning.trainer.get('max_time')} was over before the first step; raise it."
        )
    if tell is not None and costs.steps:
        tell(costs.line())
    interrupted = stop is not None and stop.interrupted
    return replace(_learned(best, movement, module, trainer, interrupted=interrupted), seconds=clock.time_elapsed())


def goals_of(
    model: MergedModel,
    objective: Objective,
    calibration: Calibration,
    size: int,
    folder: Path | None,
    keeper: Keeper = SILENT,
    *,
    bf16: bool = False,
) -> Goals:
    """Compute the experts' outputs on their rows, or read them from the folder.

    On the rows to learn from only if the objective compares with them; on held-out rows for the divergence too. Each
    pass has `size` rows at most, and computes in bf16 where `bf16` says so.
    """
    settings = target_settings(objective, bf16=bf16)
    compared = {task: own for task, own in calibration.learn.items() if objective_of(task, objective).uses_targets}
    named = {"learn": compared, "watch": calibration.watch, "judge": calibration.judge}
    parts = [(rows, folder and folder / name) for name, rows in named.items()]
    return Goals(*(compute_targets(model, rows, settings, size, place, keeper) for rows, place in parts))


def _keep_best(
    model: MergedModel,
    objective: Objective,
    learning: Learning,
    held_out: HeldOut,
    tell: Callable[[str], None] | None,
    former_steps: int,
    enough: Enough,
) -> KeepBest:
    """Watch the held-out rows; without any, the last iterate is the best."""
    measure = partial(_measure, model, held_out, objective, learning.task_weights) if held_out else None
    same = learning.batching.batch_size is None
    told = tell or (lambda line: None)
    return KeepBest(measure, learning.watching, told, same_rows=same, former_steps=former_steps, enough=enough)


def _learned(best: KeepBest, movement: Movement, module: MergeModule, trainer: Trainer, interrupted: bool) -> Learned:
    """Gather the best iterate and what is known of it; it converged if the optimiser is done and stands there."""
    stands_there = torch.equal(best.best, module.coefficients.detach().cpu())
    (optimizer,) = trainer.optimizers
    note = None if interrupted else movement.note(optimizer)
    return Learned(
        best.best,
        best.best_step,
        best.history,
        interrupted,
        best.certificate,
        best.done(trainer) and stands_there,
        best.selections,
        movement.distance,
        () if note is None else (note,),
    )


def _fit(module: MergeModule, callbacks: list[Callback], options: Mapping[str, object], resume: Path | None) -> Trainer:
    with without_advice(), rank_for(options), numbers_alone(SEEDS):
        trainer = build_trainer(options, callbacks)
        try:
            trainer.fit(module, ckpt_path=resume)
        except FloatingPointError as error:  # raised by optimisers that check the loss themselves
            raise ConfigError(f"step {trainer.global_step}: {error}") from error
    return trainer


def _measure(
    model: MergedModel,
    held_out: HeldOut,
    objective: Objective,
    task_weights: Mapping[str, float],
    coefficients: Coefficients,
) -> dict[str, float]:
    """Compute mean agreement, mean divergence and the weighted objective on held-out rows; and how far the base is."""
    seen = held_out.measure(model, coefficients, objective)
    weighted = {task: task_weights.get(task, 1.0) * value for task, value in seen.objective.items()}
    known = {"divergence": held_out.mean(seen.divergence)} if held_out.targets else {}
    known |= {FROM_BASE: seen.divergence[KEEP]} if KEEP in seen.divergence and held_out.targets else {}
    tasks = len(weighted.keys() - {KEEP}) or 1
    return {**known, "agreement": held_out.mean(seen.agreement), "objective": sum(weighted.values()) / tasks}
