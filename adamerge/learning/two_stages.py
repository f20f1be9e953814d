"""Learning in two stages: tensor-wise, then with a budget of chunks for the most important parameters."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from adamerge.calibration.agreement import HeldOut, hold_out
from adamerge.learning.learn import Calibration, Goals, descend, goals_of, target_settings
from adamerge.learning.learned import Learned
from adamerge.learning.settings import Learning
from adamerge.merging.chunks import Chunks, Importance, chunked, importance, importance_by_gradient
from adamerge.merging.coefficients import COEFFICIENTS, load_coefficients, save_coefficients
from adamerge.merging.grouping import Grouping
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.task_vectors import TaskVectors
from adamerge.objectives import Objective
from adamerge.optim import Selection
from adamerge.optim.processes import first_process_makes
from adamerge.storage.atomic_files import whole_folder, write_text
from adamerge.storage.kept import Keeper, Key
from adamerge.storage.own_files import EVERY, check_form, own_json
from adamerge.types import Coefficients

LEARNED = "learned.json"
TABLE = "importance.csv"


@dataclass(frozen=True, eq=False)
class Staged:
    """Result of two stages.

    Attributes:
        model: The model with the second stage's grouping.
        learned: Its coefficients, and the history of both stages with steps counted from the first.
    """

    model: MergedModel
    learned: Learned


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
    keeper: Keeper | None = None,
) -> Staged:
    """Learn tensor-wise, compute importance, distribute the budget, and continue from the first stage's coefficients.

    Args:
        model: The experts and their task vectors, grouped tensor-wise.
        objective: As for `learn`.
        calibration: The rows.
        learning: Settings of both stages that `check_learning` accepts; `max_steps` counts the steps of both.
        chunks: The budget and its distribution; None learns in one stage, as `learn` does.
        folder: Folder of the first stage's coefficients, its history and the table of importance.
        made_of: Key of the first stage: experts, rows and settings; its number of steps is added.
        held_out: As for `learn`.
        targets: As for `learn`.
        checkpoints: As for `learn`; each stage has its own subfolder.
        resume: As for `learn`.
        tell: As for `learn`; the steps of both stages are counted.
        announce: Called with a line of text when one of two stages begins.
        keeper: Stores the first stage and checks its key.

    Returns:
        The model with the final grouping, and its coefficients.
    """
    goals = targets if isinstance(targets, Goals) else Goals({}, {})
    if learning.steps and not isinstance(targets, Goals):
        goals = goals_of(model, objective, calibration, targets)
    size, temperature = learning.batching.micro_batch, target_settings(objective).temperature
    held_out = held_out or hold_out(model, calibration.watch, size, goals.watch, temperature)
    run = partial(
        descend, objective=objective, calibration=calibration, held_out=held_out, goals=goals, resume=resume, tell=tell
    )
    if chunks is None or not learning.steps:  # without steps there is nothing that could tell chunks apart
        return Staged(model, run(model, learning=learning, checkpoints=checkpoints))
    keeper, opening = keeper or Keeper(), _with_steps(learning, min(chunks.first_steps, learning.steps))
    key = {**made_of, "steps": str(opening.steps)}
    found = keeper.find(folder, key, read_first_stage)
    if found is None:
        product = MeanProduct()
        announce(_of_stage("first stage", model, opening.steps))
        first = run(model, learning=opening, checkpoints=_under(checkpoints, "first"), also=[product])
        if first.interrupted:
            return Staged(model, first)
        made = partial(_store, model, chunks, first, product, keeper, folder, key)
        first_process_makes(made, model.vectors.device)
        found = read_first_stage(folder)
    first, shares = found
    grouping = chunked(model.vectors, chunks, shares, learning.seed)
    finer = model.regrouped(grouping)
    start = spread(first.coefficients, model.grouping, grouping)
    first = replace(first, coefficients=start, selections=finer_selections(first.selections, model.grouping, grouping))
    left = learning.steps - chunks.first_steps
    if left <= 0:
        return Staged(finer, first)
    going_on = replace(_with_steps(learning, left), init=start)
    announce(_of_stage("second stage, from the best iterate of the first", finer, left))
    before = chunks.first_steps
    second = run(finer, learning=going_on, checkpoints=_under(checkpoints, "second"), former_steps=before)
    return Staged(finer, _joined(first, second, chunks.first_steps))


def _of_stage(name: str, model: MergedModel, steps: int) -> str:
    groups, columns = len(model.grouping), len(model.vectors.experts)
    return f"{name}: {groups} groups × {columns} columns of coefficients, at most {steps} steps"


def spread(coefficients: Coefficients, coarse: Grouping, fine: Grouping) -> Coefficients:
    """Copy to every chunk the coefficients of the group that contained its rows: (G, K) → (G', K).

    Args:
        coefficients: Coefficients of the coarse grouping, (G, K).
        coarse: The coarse grouping.
        fine: The fine grouping.

    Returns:
        Coefficients of the fine grouping, (G', K).

    Example:
        >>> from adamerge.merging.grouping import row_blocks, tensor_wise
        >>> spread(torch.tensor([[0.1], [0.2]]), tensor_wise("ab"), row_blocks({"a": (4, 1), "b": (3,)}, 2)).tolist()
        [[0.10000000149011612], [0.10000000149011612], [0.20000000298023224]]
    """
    return coefficients[_sources(coarse, fine)]


def finer_selections(selections: Sequence[Selection], coarse: Grouping, fine: Grouping) -> list[Selection]:
    """Copy to every chunk the selections of the group that contained its rows.

    Args:
        selections: Selections of the coarse grouping.
        coarse: The coarse grouping.
        fine: The fine grouping.

    Returns:
        Selections of the fine grouping.
    """
    own: dict[int, list[Selection]] = {}
    for selection in selections:
        own.setdefault(selection.group, []).append(selection)
    sources = _sources(coarse, fine).tolist()
    return [replace(one, group=group) for group, source in enumerate(sources) for one in own.get(source, [])]


def _sources(coarse: Grouping, fine: Grouping) -> torch.Tensor:
    """Find the group that contained each chunk's rows, (G',)."""
    sources = torch.empty(len(fine), dtype=torch.long)
    for name, rows in fine.rows.items():
        sources[rows] = coarse.rows[name].expand_as(rows)
    return sources


def _under(checkpoints: Path | None, stage: str) -> Path | None:
    return checkpoints / stage if checkpoints else None


def _with_steps(learning: Learning, steps: int) -> Learning:
    return replace(learning, trainer={**learning.trainer, "max_steps": steps})


def _store(
    model: MergedModel, chunks: Chunks, first: Learned, product: MeanProduct, keeper: Keeper, folder: Path, key: Key
) -> None:
    """Store the first stage's result with the importance of its parameters."""
    shares = _shares(model, first.coefficients, chunks, product.total)
    keeper.store(folder, key, lambda place: _write(place, model, first, shares))


def _shares(model: MergedModel, coefficients: Coefficients, chunks: Chunks, product: torch.Tensor) -> Importance:
    if chunks.importance == "gradient":
        return importance_by_gradient(product, model.grouping)
    return importance(model.vectors, coefficients, model.grouping, chunks.importance)


def _write(folder: Path, model: MergedModel, first: Learned, shares: Importance) -> None:
    groups, names = model.grouping.groups, model.vectors.experts
    with whole_folder(folder) as part:
        save_coefficients(part / COEFFICIENTS, first.coefficients, model.grouping, names)
        write_text(part / LEARNED, json.dumps(first.as_json(groups, names), indent=2) + "\n")
        write_text(part / TABLE, _table(shares, model.vectors))


def _table(shares: Importance, vectors: TaskVectors) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["parameter", "importance", "numbers"])
    for name in sorted(shares, key=lambda name: -shares[name]):
        rows.writerow([name, repr(shares[name]), vectors.shapes[name].numel()])
    return text.getvalue()


def read_first_stage(folder: Path) -> tuple[Learned, Importance]:
    """Read the first stage from its folder."""
    form = {"best_step": int, "history": list, EVERY: object}
    found = own_json(folder / LEARNED, "the first stage of learning", "", form)
    for seen in cast(list[object], found["history"]):
        check_form(seen, {"step": Real, EVERY: Real})
    kept = load_coefficients(folder / COEFFICIENTS)
    with (folder / TABLE).open(encoding="utf-8") as file:
        shares = {row["parameter"]: float(row["importance"]) for row in csv.DictReader(file)}
    return Learned.from_json(found, kept.coefficients, kept.grouping.groups, kept.experts), shares


def _joined(first: Learned, second: Learned, steps: int) -> Learned:
    """Join the histories of both stages; the second stage starts at the best iterate of the first."""
    history = first.history + [{**seen, "step": seen["step"] + steps} for seen in second.history if seen["step"]]
    moved = max(first.moved or 0.0, second.moved or 0.0)
    stages = (("first", first), ("second", second))
    warnings = tuple(f"{line} (in the {stage} stage)" for stage, one in stages for line in one.warnings)
    if not second.best_step:  # the best iterate is the first stage's, with its certificate
        second_end = {"coefficients": second.coefficients, "interrupted": second.interrupted}
        return replace(first, **second_end, history=history, moved=moved, warnings=warnings)
    later = [replace(selection, first_step=selection.first_step + steps) for selection in second.selections]
    best_step = second.best_step + steps
    return replace(second, history=history, best_step=best_step, selections=later, moved=moved, warnings=warnings)
