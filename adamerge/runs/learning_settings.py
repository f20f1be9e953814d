"""Options of learning from a configuration; raises what cannot be used, notes what is unusual."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import torch

from adamerge.calibration.closed_form import ClosedForm
from adamerge.data.rows import Rows
from adamerge.data.schedule import held_out_notes
from adamerge.learning.keep_best import Watching
from adamerge.learning.settings import Learning, check_learning
from adamerge.merging.device import device_of
from adamerge.optim import Descent
from adamerge.runs.build_model import GROUPINGS
from adamerge.runs.config import MergeConfig
from adamerge.runs.start import check_weights, start_of, weight_notes
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
    options = {key: value for key, value in asdict(config.trainer).items() if value is not None}
    options.setdefault("enable_progress_bar", progress_bar)
    learning = Learning(
        optimizer=config.optimizer,
        scheduler=config.lr_scheduler,
        feasible=config.feasible,
        init=0.3 if isinstance(config.start, ClosedForm) else config.start,  # replaced by the closed-form start later
        batching=config.data,
        watching=watching_of(config),
        seed=config.seed_everything,
        task_weights={expert.name: expert.loss_weight for expert in config.models},
        regulariser=config.regulariser if config.regulariser.strength else None,
        trainer=options,
    )
    checks = (_check_chunks, _check_closed_form, _check_sum, check_weights)
    problems = [problem for check in checks for problem in problems_of(lambda check=check: check(config))]
    problems += problems_of(lambda: check_learning(learning, len(config.columns)))
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return learning


def watching_of(config: MergeConfig) -> Watching:
    """Return how the best iterate is chosen: a method's mean over steps is not of optimisers that search their steps.

    Args:
        config: Configuration; a mean that the user wrote stays, and is refused with such an optimiser.
    """
    return replace(config.watch, average=0.0) if _searches(config) else config.watch


def _searches(config: MergeConfig) -> bool:
    return isinstance(config.optimizer, Descent) and "watch.average" not in config.written


def problems_of(step: Callable[[], object]) -> list[str]:
    """Return the problems that a function raises, one message per line."""
    try:
        step()
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _check_chunks(config: MergeConfig) -> None:
    if config.chunks is not None and config.grouping != "tensor":
        raise ConfigError(
            f"chunks: expected grouping: tensor, found {config.grouping}: the first stage has one coefficient per "
            "tensor. Set grouping: tensor; or chunks: null, which allows any grouping."
        )


def _check_closed_form(config: MergeConfig) -> None:
    if config.columns != config.names and isinstance(config.start, ClosedForm):
        raise ConfigError(
            f"init: closed_form needs one task vector per expert, but {type(config.task_vectors).__name__} makes one "
            "task vector of all experts; set init to a number, or remove task_vectors."
        )


def _check_sum(config: MergeConfig) -> None:
    if config.trainer.max_steps == 0 and config.task_vectors is not None and config.start == 0:
        raise ConfigError(
            f"task_vectors: nothing is learned and the start is 0, so {type(config.task_vectors).__name__} would add "
            "nothing to the centre; set init to another number, or remove task_vectors."
        )


def learning_notes(config: MergeConfig, names: Sequence[str]) -> list[str]:
    """List what is valid but perhaps not intended, such as a start outside the feasible set.

    Args:
        config: Configuration.
        names: Parameters that are merged.
    """
    notes = [*weight_notes(config, names), *_beside_notes(config), *_mean_notes(config), *_outside(config, names)]
    steps = config.trainer.max_steps
    if config.chunks is not None and 0 < steps <= config.chunks.first_steps:
        notes.append(
            f"warning: trainer.max_steps ({steps}) ends within the first stage (chunks.first_steps: "
            f"{config.chunks.first_steps}), so no chunk gets its own coefficient; raise trainer.max_steps"
        )
    return notes


def _beside_notes(config: MergeConfig) -> list[str]:
    """Say which models beside the experts get no coefficient, and why."""
    left = len(config.beside) - len(config.models_beside)
    if not left or "beside" not in config.written:
        return []
    reason = config.only_experts or "the base is the centre, or a model is named twice"
    return [f"note: beside: {left} of {len(config.beside)} models get no coefficient, because {reason}"]


def _mean_notes(config: MergeConfig) -> list[str]:
    """Say that the method's mean over steps is left out."""
    if not config.watch.average or not config.trainer.max_steps or not _searches(config):
        return []
    name = type(config.optimizer).__name__
    return [
        f"note: watch.average: 0 instead of the method's {config.watch.average:g}, because {name} searches its steps"
    ]


def row_notes(config: MergeConfig, rows: Mapping[str, Rows]) -> list[Fact]:
    """Say how many rows are held out, where that is not the share that is configured, or where they are few."""
    counts = {task: len(own) for task, own in rows.items()}
    watched = config.trainer.max_steps and config.watch.monitor != "last"
    return held_out_notes(counts, config.data.held_out, config.data.least_held_out) if watched else []


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
