"""Lightning's loggers: where they write, and when they are built."""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from adamerge.types import ConfigError, quoted

BuildLogger: TypeAlias = Callable[[], Logger]
"""Builds one of Lightning's loggers, such as `partial(CSVLogger, save_dir="logs")`."""


def with_loggers(trainer: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Build the loggers of the Trainer's options; they write into a folder unless they have a place of their own.

    Args:
        trainer: Arguments of Lightning's Trainer, with what builds loggers.
        folder: Folder of the run.

    Example:
        >>> with_loggers({"max_steps": 1}, Path("logs"))
        {'max_steps': 1}
    """
    asked = trainer.get("logger")
    if not asked:
        return dict(trainer)
    each = cast(list[BuildLogger], asked if isinstance(asked, list) else [asked])
    return {**trainer, "logger": [with_place(make, str(folder)) for make in each]}


def with_place(make: Callable[..., Logger], folder: str, **options: object) -> Logger:
    """Build a logger that writes into a folder, if it has the option `save_dir` and that is not given."""
    takes = inspect.signature(make.func if isinstance(make, partial) else make).parameters
    given = {**(make.keywords if isinstance(make, partial) else {}), **options}
    place = {"save_dir": folder} if "save_dir" in takes and "save_dir" not in given else {}
    return make(**options, **place)


FILES_ALONE = (CSVLogger, TensorBoardLogger)
"""Loggers that write into their folder, and reach nothing else."""

_WITHIN = ("name", "version", "sub_dir")
"""Options of loggers that name folders inside `save_dir`."""


def options_of_loggers(asked: object) -> list[Mapping[str, object]]:
    """List the options that were given of every logger.

    Args:
        asked: What builds one, a list of these, or None.

    Example:
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> options_of_loggers([partial(CSVLogger, save_dir="logs"), CSVLogger])
        [{'save_dir': 'logs'}, {}]
    """
    each = cast(list[object], asked if isinstance(asked, list) else [asked])
    return [one.keywords if isinstance(one, partial) else {} for one in each]


def places_within(options: Mapping[str, object]) -> list[str]:
    """List the folders below `save_dir` that a logger's options name.

    Args:
        options: Options of a logger.

    Raises:
        ConfigError: One leads out of `save_dir`.

    Example:
        >>> places_within({"save_dir": "logs", "name": "mood", "version": 3})
        ['mood']
    """
    named = {key: value for key in _WITHIN if isinstance(value := options.get(key), str)}
    inner = Path()
    for key, value in named.items():
        inner = Path(os.path.normpath(inner / value))
        if inner.is_absolute() or ".." in inner.parts:
            raise ConfigError(f"{key}: expected a folder inside save_dir, found {quoted(value)}. Correct it.")
    return list(named.values())
