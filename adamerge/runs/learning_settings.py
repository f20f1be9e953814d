"""How coefficients are learned, from a configuration; what cannot be used is refused, what is odd is noted."""

from dataclasses import asdict

import torch

from adamerge.calibration.closed_form import ClosedForm
from adamerge.learning.settings import Learning, check_learning
from adamerge.runs.config import MergeConfig
from adamerge.types import ConfigError


def learning_of(config: MergeConfig, *, progress_bar: bool) -> Learning:
    """How coefficients are learned, as the configuration says.

    Raises:
        ConfigError: The optimiser, the scheduler, an option of the Trainer or the feasible set cannot be used.
    """
    options = {key: value for key, value in asdict(config.trainer).items() if value is not None}
    options.setdefault("enable_progress_bar", progress_bar)
    learning = Learning(
        optimizer=config.optimizer,
        scheduler=config.lr_scheduler,
        feasible=config.feasible,
        init=0.3 if isinstance(config.start, ClosedForm) else config.start,  # until there is a model to solve for
        batching=config.data,
        watching=config.watch,
        seed=config.seed_everything,
        task_weights={expert.name: expert.weight for expert in config.models},
        regulariser=config.regulariser if config.regulariser.strength else None,
        trainer=options,
    )
    if config.chunks is not None and config.grouping != "tensor":
        raise ConfigError(
            f"chunks: the first stage is tensor-wise; expected grouping: tensor, got {config.grouping}. "
            "Without a second stage (chunks: null) any grouping will do."
        )
    if config.columns != config.names and isinstance(config.start, ClosedForm):
        raise ConfigError(
            f"init: closed_form looks for each expert's own output, but {type(config.task_vectors).__name__} makes one "
            "task vector of all experts; start from a number, or leave out task_vectors."
        )
    if learning.steps == 0 and config.task_vectors is not None and config.start == 0:
        raise ConfigError(
            f"task_vectors: nothing is learned and the start is 0, so {type(config.task_vectors).__name__} would add "
            "nothing to the centre; set init to another number, or leave out task_vectors."
        )
    check_learning(learning, len(config.columns))
    return learning


def learning_notes(config: MergeConfig) -> list[str]:
    """What is allowed, but perhaps not meant: a start outside of the set, a second stage without steps."""
    notes: list[str] = []
    start, steps = config.start, config.trainer.max_steps
    if not isinstance(start, ClosedForm) and not config.feasible.contains(torch.full((1, len(config.columns)), start)):
        notes.append(f"note: the start, {start:g}, is outside of {config.feasible}; its nearest point is taken")
    if config.chunks is not None and 0 < steps <= config.chunks.first_steps:
        notes.append(
            f"warning: trainer.max_steps ({steps}) ends within the first stage (chunks.first_steps: "
            f"{config.chunks.first_steps}), so no chunk gets a coefficient of its own"
        )
    return notes
