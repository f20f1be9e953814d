"""Options of learning from a configuration; raises what cannot be used, notes what is unusual."""

from dataclasses import asdict

import torch

from adamerge.calibration.closed_form import ClosedForm
from adamerge.learning.settings import Learning, check_learning
from adamerge.merging.device import device_of
from adamerge.runs.config import MergeConfig
from adamerge.runs.start import check_weights, weight_notes
from adamerge.types import ConfigError


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
        watching=config.watch,
        seed=config.seed_everything,
        task_weights={expert.name: expert.loss_weight for expert in config.models},
        regulariser=config.regulariser if config.regulariser.strength else None,
        trainer=options,
    )
    if config.chunks is not None and config.grouping != "tensor":
        raise ConfigError(
            f"chunks: expected grouping: tensor, found {config.grouping}: the first stage has one coefficient per "
            "tensor. Set grouping: tensor; or chunks: null, which allows any grouping."
        )
    if config.columns != config.names and isinstance(config.start, ClosedForm):
        raise ConfigError(
            f"init: closed_form needs one task vector per expert, but {type(config.task_vectors).__name__} makes one "
            "task vector of all experts; set init to a number, or remove task_vectors."
        )
    if learning.steps == 0 and config.task_vectors is not None and config.start == 0:
        raise ConfigError(
            f"task_vectors: nothing is learned and the start is 0, so {type(config.task_vectors).__name__} would add "
            "nothing to the centre; set init to another number, or remove task_vectors."
        )
    check_weights(config)
    check_learning(learning, len(config.columns))
    return learning


def learning_notes(config: MergeConfig) -> list[str]:
    """List what is valid but perhaps not intended: a start outside the feasible set, a second stage without steps."""
    notes = weight_notes(config)
    start, steps = config.start, config.trainer.max_steps
    if not isinstance(start, ClosedForm) and not config.feasible.contains(torch.full((1, len(config.columns)), start)):
        notes.append(f"note: the start, {start:g}, is outside {config.feasible}; its nearest point is used")
    if config.chunks is not None and 0 < steps <= config.chunks.first_steps:
        notes.append(
            f"warning: trainer.max_steps ({steps}) ends within the first stage (chunks.first_steps: "
            f"{config.chunks.first_steps}), so no chunk gets its own coefficient; raise trainer.max_steps"
        )
    return notes
