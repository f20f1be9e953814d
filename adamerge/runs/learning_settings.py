"""Options of learning from a configuration; raises what cannot be used, notes what is unusual."""

import os
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from adamerge.calibration.closed_form import ClosedForm
from adamerge.data.rows import Rows
from adamerge.data.schedule import held_out_notes, held_out_rows
from adamerge.experts.name_patterns import several
from adamerge.learning.settings import Learning, check_learning
from adamerge.merging.chunks import Chunks
from adamerge.merging.device import device_of
from adamerge.runs.build_model import GROUPINGS
from adamerge.runs.clashes import clashes, learning_from, problems_of, searches
from adamerge.runs.config import MergeConfig
from adamerge.runs.start import start_of, weight_notes
from adamerge.types import ConfigError, Fact


def learning_of(config: MergeConfig, *, progress_bar: bool) -> Learning:
    """Build the options of learning from a configuration.

    Args:
        config: Configuration.
        progress_bar: Whether to show a progress bar, unless the configuration decides.

    Raises:
        ConfigError: The optimiser, the scheduler, an option of the Trainer or the feasible set cannot be used, or
            there is no such device.
    """
    device_of(config.trainer.accelerator)
    learning = learning_from(config, progress_bar=progress_bar)
    problems = [problem for _, problem in clashes(config, here=True)]
    problems = problems or problems_of(partial(check_learning, learning, len(config.columns)))
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return learning


def learning_notes(config: MergeConfig, names: Sequence[str]) -> list[str]:
    """List what is valid but perhaps not intended, such as a start outside the feasible set.

    Args:
        config: Configuration.
        names: Parameters that are merged.
    """
    notes = [*weight_notes(config, names), *_beside_notes(config), *_mean_notes(config), *_outside(config, names)]
    notes += _machine_notes(config)
    steps = config.trainer.max_steps
    if config.chunks is not None and 0 < steps <= (
        shortest := _steps_without_chunks(config.chunks, config.watch.every)
    ):
        notes.append(
            f"warning: trainer.max_steps ({steps}) ends within the first stage (chunks.first_steps: "
            f"{config.chunks.first_steps}), so no chunk gets its own coefficient; raise trainer.max_steps above "
            f"{shortest}"
        )
    return notes


_FIRST = ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID")
"""Variables by which torchrun and clusters say where the first machine is."""


def _machine_notes(config: MergeConfig) -> list[str]:
    """Say that nothing names the first of several machines, so that they would wait for each other for long."""
    if config.trainer.num_nodes == 1 or not config.trainer.max_steps or any(name in os.environ for name in _FIRST):
        return []
    return [
        f"warning: trainer.num_nodes: {config.trainer.num_nodes}: nothing here says where the first machine is, so fit "
        "waits for the others, for a day at most; start it by torchrun or srun on every machine, or set MASTER_ADDR "
        "and NODE_RANK"
    ]


def _steps_without_chunks(chunks: Chunks, every: int) -> int:
    """Return the largest trainer.max_steps that leaves no room for a second stage.

    Example:
        >>> _steps_without_chunks(Chunks(8, first_steps=20), 10), _steps_without_chunks(Chunks("auto"), 15)
        (20, 49)
    """
    if not chunks.grows:
        return chunks.first_steps
    looked = -(-max(1, chunks.first_steps) // every) * every
    return looked + max(chunks.first_steps, every) - 1


def _beside_notes(config: MergeConfig) -> list[str]:
    """Say which models beside the experts get no coefficient, and why."""
    left = len(config.beside) - len(config.models_beside)
    if not left or "beside" not in config.written:
        return []
    reason = config.only_experts or "the base is the centre, or a model is named twice"
    return [f"note: beside: {left} of {len(config.beside)} models get no coefficient, because {reason}"]


def _mean_notes(config: MergeConfig) -> list[str]:
    """Say that the method's mean over steps is left out."""
    if not config.watch.average or not config.trainer.max_steps or not searches(config):
        return []
    name = type(config.optimizer).__name__
    return [
        f"note: watch.average: 0 instead of the method's {config.watch.average:g}, because {name} searches its steps"
    ]


def row_notes(config: MergeConfig, rows: Mapping[str, Rows]) -> list[Fact]:
    """Say how many rows are held out and taken per step, where that is not as configured, or where they are few."""
    counts = {task: len(own) for task, own in rows.items()}
    watched = config.trainer.max_steps and config.watch.monitor != "last"
    notes = held_out_notes(counts, config.data) if watched else []
    return [*notes, *_batch_notes(config, counts), *_growth_notes(config, counts)]


def _batch_notes(config: MergeConfig, counts: Mapping[str, int]) -> list[Fact]:
    """Say of which tasks a step takes all rows, because they are fewer than a batch."""
    size = config.data.batch_size
    if size is None or not config.trainer.max_steps:
        return []
    few = [f"{count} of {task}" for task, count in _learned_from(config, counts).items() if count < size]
    rows = several(few, 6)
    return [Fact(f"note: data.batch_size: {size}: a step takes all rows to learn from, {rows}")] if few else []


def _learned_from(config: MergeConfig, counts: Mapping[str, int]) -> dict[str, int]:
    """Count the rows of each task that are not held out."""
    held = held_out_rows(counts, config.data)
    return {task: count - held[task].all for task, count in counts.items()}


def _growth_notes(config: MergeConfig, counts: Mapping[str, int]) -> list[Fact]:
    """Say that the budget of chunks cannot grow without held-out rows."""
    if config.chunks is None or not config.trainer.max_steps:
        return []
    watched = any(own.choosing for own in held_out_rows(counts, config.data).values())
    settled = config.chunks.settled(watched=watched)
    if settled == config.chunks:
        return []
    return [
        Fact(
            f"warning: chunks.budget: {settled.budget:g} instead of auto, because no rows are held out that could tell "
            "whether more pay; give more rows, or raise data.held_out"
        )
    ]


def augmentation_notes(config: MergeConfig, rows: Mapping[str, Rows]) -> list[Fact]:
    """Say which rows have changed copies to learn from, and which have none although the user asks for them."""
    how = config.data.augmentation
    if how is None or not config.trainer.max_steps:
        return []
    learned = _learned_from(config, {task: len(own) for task, own in rows.items()})
    copied = {task: how.copies_of(learned[task]) for task, own in rows.items() if own.augmented(how, 0, [0])}
    asked = any(key.startswith("data.augmentation") for key in config.written)
    left = [task for task in rows if asked and task not in copied]
    deleted = f"up to {100 * how.deletion:g} % of their tokens deleted at random; their experts predict them anew"
    lines = {
        f"{copies} {'copies' if copies > 1 else 'copy'} of each text to learn from, {deleted}": [
            task for task, own in copied.items() if own == copies
        ]
        for copies in sorted(set(copied.values()))
    }
    lines |= {"rows are no texts with one prediction each, and are used unchanged": left}
    return [Fact(f"note: data.augmentation: {', '.join(tasks)}: {line}") for line, tasks in lines.items() if tasks]


def _outside(config: MergeConfig, names: Sequence[str]) -> list[str]:
    """Say that the start is outside the feasible set, whether init or parameters.weight of a model gives it."""
    grouping = GROUPINGS[config.grouping](names)
    start = start_of(config, grouping)
    if isinstance(start, ClosedForm):
        return []
    if not isinstance(start, torch.Tensor):
        inside = config.feasible.contains(torch.full((1, len(config.columns)), start))
        return (
            [] if inside else [f"note: the start, {start:g}, is outside {config.feasible}; its nearest point is used"]
        )
    rows = zip(grouping.groups, start, strict=True)
    outside = [(group, row) for group, row in rows if not config.feasible.contains(row[None])]
    if not outside:
        return []
    group, row = outside[0]
    return [
        f"note: parameters.weight of the models: the start of {len(outside)} of {len(grouping)} groups is outside "
        f"{config.feasible}; its nearest point is used ({group}: {', '.join(f'{c:g}' for c in row.tolist())})"
    ]
