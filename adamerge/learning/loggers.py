"""Lightning's loggers: where they write, and when they are built."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from pytorch_lightning.loggers import Logger

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
