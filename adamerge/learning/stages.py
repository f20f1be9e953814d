"""Learning in stages: tensor-wise, then with more and more chunks for what is most important."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from adamerge.calibration.agreement import HeldOut, hold_out
from adamerge.calibration.target_settings import target_settings
from adamerge.learning.course import Course, Plan, Staged
from adamerge.learning.kept_stages import Kept, read_stage, write_stage
from adamerge.learning.learn import Calibration, Goals, descend, goals_of
from adamerge.learning.learned import Learned
from adamerge.learning.settings import Learning
from adamerge.merging.chunks import Chunks, Importance, importance, importance_by_gradient
from adamerge.merging.merged_model import MergedModel
from adamerge.objectives import Objective
from adamerge.optim.processes import first_process_makes
from adamerge.storage.kept import SILENT, Keeper, Key
from adamerge.types import Coefficients


class MeanProduct(Callback):
    """Sum over the steps of Σₖ |cₖ·∂L/∂cₖ| per group, the importance by gradient; its state is part of a checkpoint.

    Attributes:
        total: Sum over the steps so far, (G,).
    """

    def __init__(self) -> None:
        self.total: torch.Tensor = torch.zeros(())

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        coefficients = pl_module.get_parameter("coefficients")
        if coefficients.grad is not None:
            self.total = self.total + (coefficients * coefficients.grad).detach().abs().sum(1).cpu()

    @override
    def state_dict(self) -> dict[str, object]:
        return {"total": self.total}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.total = state_dict["total"]  # pyright: ignore


def learn_in_stages(
    model: MergedModel,
    objective: Objective,
    calibration: Calibration,
    learning: Learning,
    chunks: Chunks | None,
    folder: Path,
    *,
    made_of: Key,
    held_out: HeldOut | None = None,
    targets: Path | Goals | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    tell: Callable[[str], None] | None = None,
    announce: Callable[[str], None] = lambda line: None,
    keeper: Keeper = SILENT,
) -> Staged:
    """Learn tensor-wise, compute importance, distribute the budget, and continue from the best iterate so far.

    The optimiser begins anew with each stage: its moments are of sums over the rows of a group, and say nothing of the
    parts that the group was divided into.

    Args:
        model: The experts and their task vectors, grouped tensor-wise.
        objective: As for `learn`.
        calibration: The rows.
        learning: Settings that `check_learning` accepts; `max_steps` and `max_time` are of all stages together.
        chunks: The budget and its distribution; None learns in one stage, as `learn` does.
        folder: Folder of the first stage's coefficients, its history and the table of importance; those of others,
            such as second_stage, lie beside it.
        made_of: Key of the stages: experts, rows and settings; what ends a stage is added.
        held_out: As for `learn`.
        targets: As for `learn`.
        checkpoints: As for `learn`; each stage has its own subfolder.
        resume: As for `learn`.
        tell: As for `learn`; the steps of all stages are counted.
        announce: Called with a line of text when a stage begins, and of where growth ended.
        keeper: Stores the stages before the last and checks their keys.

    Returns:
        The model with the final grouping, and its coefficients.
    """
    size, bf16, temperature = learning.batching.micro_batch, learning.bf16, target_settings(objective).temperature
    goals = targets if isinstance(targets, Goals) else Goals({}, {})
    if learning.steps and not isinstance(targets, Goals):
        goals = goals_of(model, objective, calibration, size, targets, bf16=bf16)
    held_out = held_out or hold_out(model, calibration.watch, size, goals.watch, temperature, bf16=bf16)
    run = partial(
        descend, objective=objective, calibration=calibration, held_out=held_out, goals=goals, resume=resume, tell=tell
    )
    if chunks is None or not learning.steps:  # without steps there is nothing that could tell chunks apart
        return Staged(model, run(model, learning=learning, checkpoints=checkpoints))
    course = Course(model, learning, chunks.settled(watched=bool(held_out)))
    while (plan := course.plan()) is not None:
        place, key = folder.with_name(f"{plan.name}_stage") if course.stages else folder, {**made_of, **plan.key}
        kept = None if plan.last else keeper.find(place, key, read_stage)
        if kept is None:
            announce(course.opening(plan))
            found, product = _run_of(run, course, plan, checkpoints)
            if found.interrupted or not plan.goes_on(found):
                course.add(plan, found)
                break
            store = partial(_store, course.model, course.chunks, found, product, keeper, place, key)
            first_process_makes(store, model.vectors.device)
            kept = read_stage(place)
        course.add(plan, kept.learned)
        course.refine(kept.shares)
    if course.chunks.grows and not course.learned.interrupted:
        announce(course.closing(plan))
    return course.staged()


def _run_of(
    run: Callable[..., Learned], course: Course, plan: Plan, checkpoints: Path | None
) -> tuple[Learned, torch.Tensor]:
    """Learn a stage; return its result, and the sum of |c·∂L/∂c| over its steps if a finer stage may follow."""
    product = MeanProduct()
    found = run(
        course.model,
        learning=plan.learning,
        checkpoints=checkpoints / plan.name if checkpoints else None,
        also=[] if plan.last else [product],
        former_steps=course.steps,
        enough=plan.ends_stage,
    )
    return found, product.total


def _store(
    model: MergedModel, chunks: Chunks, found: Learned, product: torch.Tensor, keeper: Keeper, folder: Path, key: Key
) -> None:
    """Store a stage with the importance of its groups."""
    stage = Kept(found, _shares(model, found.coefficients, chunks, product))
    keeper.store(folder, key, lambda place: write_stage(place, model, stage))


def _shares(model: MergedModel, coefficients: Coefficients, chunks: Chunks, product: torch.Tensor) -> Importance:
    if chunks.importance == "gradient":
        return importance_by_gradient(product, model.grouping)
    return importance(model.vectors, coefficients, model.grouping, chunks.importance)
