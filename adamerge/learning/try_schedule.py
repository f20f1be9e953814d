"""Build a scheduler and step it as often as learning will: what it refuses late is found before learning."""

import warnings

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from adamerge.learning.merge_module import BuildScheduler
from adamerge.storage.regular_files import first_line
from adamerge.types import ConfigError

LARGEST_RATE = 1e6
"""The largest learning rate that a schedule may reach, unless the optimiser's own is larger."""

_TRIED_STEPS = 10**5
"""Steps that are tried at most, which takes seconds."""


def build_schedule(build: BuildScheduler, optimizer: Optimizer) -> LRScheduler:
    """Build a scheduler over an optimiser.

    Args:
        build: Builds the scheduler.
        optimizer: Over temporary coefficients.

    Raises:
        ConfigError: It rejects its options, or the optimiser.
    """
    try:
        return build(optimizer)
    except ConfigError as error:
        raise ConfigError(f"lr_scheduler: {error}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"lr_scheduler: expected a scheduler that accepts {type(optimizer).__name__}; torch says: "
            f"{str(error).rstrip('.')}. Change an option of the scheduler, or choose another one."
        ) from error


def try_schedule(build: BuildScheduler, optimizer: Optimizer, steps: int) -> None:
    """Step a scheduler as often as learning will.

    Args:
        build: Builds the scheduler.
        optimizer: Over temporary coefficients, which stay as they are.
        steps: `trainer.max_steps`.

    Raises:
        ConfigError: It can be built but refuses a step, or a learning rate is negative, not finite or very large.

    Example:
        >>> import torch
        >>> from torch.optim.lr_scheduler import OneCycleLR
        >>> optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        >>> try_schedule(lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=5), optimizer, 5)
    """
    bound = max([LARGEST_RATE, *(float(group["lr"]) for group in optimizer.param_groups if "lr" in group)])
    try:
        scheduler = build_schedule(build, optimizer)
    except ConfigError:  # of the options alone
        return
    with warnings.catch_warnings(action="ignore"):  # the optimiser takes no steps
        for step in range(1, 1 + min(steps, _TRIED_STEPS)):
            try:
                scheduler.step()
            except Exception as error:  # torch raises anything
                raise ConfigError(
                    f"lr_scheduler: expected a scheduler of trainer.max_steps: {steps} steps, but "
                    f"{type(scheduler).__name__} refuses step {step} ({first_line(error).rstrip('.')}). Change its "
                    "options (total_steps, or epochs and steps_per_epoch), or trainer.max_steps."
                ) from error
            _check_rates(scheduler, optimizer, step, bound)


def _check_rates(scheduler: LRScheduler, optimizer: Optimizer, step: int, bound: float) -> None:
    for group in optimizer.param_groups:
        rate = float(group.get("lr", 0.0))
        if not 0 <= rate <= bound:
            raise ConfigError(
                f"lr_scheduler: expected learning rates of at least 0 and at most {bound:g} in all steps, but that of "
                f"{type(scheduler).__name__} is {rate:g} after step {step} of trainer.max_steps. Change its options."
            )
