"""Build optimisers, schedulers and loggers on trial: what they refuse of their options is found before learning."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import torch
from torch.optim import LBFGS, SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from adamerge.learning.loggers import FILES_ALONE, Logger, places_within, with_place
from adamerge.learning.trainer import first_rank
from adamerge.runs.construct import INVALID, words_of
from adamerge.storage.atomic_files import temporary_folder
from adamerge.storage.regular_files import reason_of
from adamerge.types import ConfigError

PACKAGES: Final = {
    "TensorBoardLogger": "tensorboard",
    "WandbLogger": "wandb",
    "MLFlowLogger": "mlflow",
    "CometLogger": "comet-ml",
    "NeptuneLogger": "neptune",
}
"""What is installed for each of Lightning's loggers; its own messages name bounds of versions, or no command."""


def on_trial(cls: type) -> Callable[..., object]:
    """Return a function that builds an optimiser or a scheduler on temporary coefficients, to check its options.

    It takes steps, because some options are refused only there. A logger logs in a temporary folder.
    """
    if issubclass(cls, Logger):
        return partial(_logger, cls)
    return partial(_finite, partial(_tried, _move if issubclass(cls, Optimizer) else _decay, cls))


def _logger(cls: Callable[..., Logger], **options: object) -> None:
    """Build a logger; one that writes files alone logs a number in a temporary folder.

    Raises:
        ConfigError: What it needs is not installed, or it writes outside its folder.
        ValueError: Whatever was raised where it logged.
    """
    _ = places_within(options)
    try:
        with_place(cls, os.devnull, **options)  # nothing is written before it logs
    except ImportError as error:
        package = PACKAGES.get(cls.__name__)
        way = f"Install it: pip install {package}" if package else f"{cls.__name__} says: {reason_of(error)}"
        raise ConfigError(
            f"expected a logger whose package is installed, found {cls.__name__}. {way}; or name CSVLogger, which "
            "needs none."
        ) from error
    if cls in FILES_ALONE and INVALID not in options.values():
        _log_once(cls, options)


def _log_once(cls: Callable[..., Logger], options: Mapping[str, object]) -> None:
    """Log a number in a temporary folder.

    Raises:
        ValueError: Whatever was raised.
    """
    with temporary_folder() as folder, first_rank():
        try:
            logger = cls(**{**options, "save_dir": str(folder)})
            logger.log_metrics({"loss": 0.0}, step=0)
            logger.save()
            logger.finalize("success")
        except Exception as error:  # loggers raise anything
            raise ValueError(reason_of(error)) from error


_TRIED_STEPS = 20
"""Steps of a scheduler that are tried."""


def _finite(make: Callable[..., object], **options: object) -> object:
    """Build an object of finite options only; torch accepts an infinite learning rate."""
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}: expected a finite number, found {value}.")
    return make(**options)


def _tried(trial: Callable[..., Iterator[None]], cls: type, **options: object) -> None:
    """Build an object, and let it take its steps if all options are usable.

    Raises:
        ValueError: Whatever was raised in its steps.
    """
    steps = trial(cls, **options)
    next(steps)
    try:
        _ = any(value is INVALID for value in options.values()) or [*steps]
    except Exception as error:  # torch raises anything
        raise ValueError(words_of(error)) from error


def _move(cls: Callable[..., Optimizer], **options: object) -> Iterator[None]:
    """Build an optimiser; then take a step by a gradient of 1, but for LBFGS, which would take many.

    Raises:
        ConfigError: The step is to be recorded in a CUDA graph; torch refuses that on the CPU only.
        ValueError: The step leads to no finite number.
    """
    if options.get("capturable") is True:
        raise ConfigError("capturable: expected false, found true: no step is recorded in a CUDA graph here.")
    coefficients = torch.nn.Parameter(torch.zeros(2, 2))
    coefficients.grad = torch.ones(2, 2)
    optimizer = cls([coefficients], **options)
    yield
    if not isinstance(optimizer, LBFGS):
        optimizer.step()
    if not coefficients.isfinite().all():
        raise ValueError(f"a step from 0 by a gradient of 1 leads to {coefficients[0, 0].item()}")


def _decay(cls: Callable[..., LRScheduler], **options: object) -> Iterator[None]:
    """Build a scheduler; then take steps.

    Raises:
        ValueError: The learning rate becomes negative, or no finite number.
    """
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1, 1))], lr=1.0)
    scheduler = cls(optimizer, **options)
    yield
    for step in range(1, 1 + min(_TRIED_STEPS, getattr(scheduler, "total_steps", _TRIED_STEPS))):
        optimizer.step()
        scheduler.step()
        rate = optimizer.param_groups[0]["lr"]
        if not 0 <= rate < math.inf:
            raise ValueError(f"the learning rate is {rate:g} times that of the optimiser after {step} steps")
