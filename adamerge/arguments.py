"""Check the kinds of the Python interface's arguments, before anything is opened."""

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from difflib import get_close_matches
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TypeGuard, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from adamerge.runs.model_config import ModelConfig
from adamerge.runs.similar_words import nearest
from adamerge.runs.unknown_keys import replaced
from adamerge.storage.file_names import at_home
from adamerge.types import ConfigError

Made = TypeVar("Made")

_DTYPES = ("float32", "float16", "bfloat16", "float64")


def found(value: object) -> str:
    """Describe a wrong argument: its value if that is short, and its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shown = repr(value)
    return f"{shown} ({type(value).__name__})" if len(shown) <= 60 else f"a {type(value).__name__}"


def with_known_keywords(cls: type[Made]) -> type[Made]:
    """Let a class refuse keywords that it lacks in the words of all errors; decorates it.

    The error tells what replaces a keyword that a model in YAML has no longer, or else names the nearest one.

    Example:
        >>> with_known_keywords(type("Point", (), {"__init__": lambda self, left=0: None}))(lfet=1)
        Traceback (most recent call last):
        adamerge.types.ConfigError: Point: lfet: there is no such keyword. Did you mean left?
    """
    construct, known = cls.__init__, [*signature(cls).parameters]

    @wraps(construct)
    def checked(self: Made, *given: object, **named: object) -> None:
        if wrong := [name for name in named if name not in known]:
            ways = {name: replaced(ModelConfig, name) or nearest(name, known) for name in wrong}
            lines = (f"{cls.__name__}: {name}: there is no such keyword.{way}" for name, way in ways.items())
            raise ConfigError(*lines)
        construct(self, *given, **named)

    cls.__init__ = checked
    return cls


def is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether a value is a path or a hub id."""
    return isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str)  # pyright: ignore


def path_of(value: object, what: str) -> Path:
    """Convert an argument to a path; `~` is the home directory.

    Raises:
        ConfigError: It is no path.

    Example:
        >>> path_of(3, "folder")
        Traceback (most recent call last):
        adamerge.types.ConfigError: folder: expected a path, found 3 (int).
    """
    if not is_path(value) or not os.fspath(value):
        raise ConfigError(f"{what}: expected a path, found {found(value)}.")
    return at_home(value)


def dtype_of(value: object) -> torch.dtype | None:
    """Convert an argument to a floating-point dtype, by object or name; None stays None.

    Raises:
        ConfigError: It is another value.

    Example:
        >>> dtype_of("bfloat16")
        torch.bfloat16
    """
    if value is None:
        return None
    for name in _DTYPES:
        dtype: torch.dtype = getattr(torch, name)
        if value is dtype or (isinstance(value, str) and value == name):
            return dtype
    raise ConfigError(f"dtype: expected one of {', '.join(_DTYPES)} or None, found {found(value)}.")


def check_console(console: object) -> None:
    """Refuse a console that is none.

    Raises:
        ConfigError: It is neither a rich.console.Console nor None.
    """
    if not isinstance(console, Console | None):
        raise ConfigError(f"console: expected a rich.console.Console or None, found {found(console)}.")


def check_processor(processor: object) -> None:
    """Refuse a processor that cannot be called, for example its name.

    Raises:
        ConfigError: It is neither None nor can it be called.
    """
    if processor is not None and (isinstance(processor, type) or not callable(processor)):
        raise ConfigError(
            f"processor: expected a tokenizer or image processor, found {found(processor)}. Load it first: "
            "AutoTokenizer.from_pretrained(…) or AutoImageProcessor.from_pretrained(…)."
        )


def check_tasks(processor: object, tasks: Sequence[str]) -> None:
    """Refuse processors of tasks that there are not.

    Args:
        processor: One processor, or processors by task.
        tasks: Names of the tasks.

    Raises:
        ConfigError: A key is no task; names the nearest one.
    """
    for task in processor if isinstance(processor, Mapping) else ():
        if task not in tasks:
            near = get_close_matches(str(task), tasks, n=1, cutoff=0.0)
            raise ConfigError(
                f"processor: expected names of tasks as keys ({', '.join(tasks)}), found {task!r}. "
                f"Did you mean {near[0]!r}?"
            )


def check_model(model: object, what: str) -> None:
    """Refuse a model that is no path, module or state dict.

    Args:
        model: The argument.
        what: Its name in messages.

    Raises:
        ConfigError: It is none of these, or a state dict holds something else than tensors.
    """
    if isinstance(model, nn.Module) or (is_path(model) and os.fspath(model)):
        return
    if not isinstance(model, Mapping) or not model:
        hint = " Call it to get a module." if isinstance(model, type) and issubclass(model, nn.Module) else ""
        raise ConfigError(f"{what}: expected a path, a hub id, a module or a state dict, found {found(model)}.{hint}")
    for key, value in model.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            near = f" Give the mapping under {key!r}." if isinstance(value, Mapping) else ""
            raise ConfigError(
                f"{what}: expected a state dict, names to tensors, found {found(value)} under {key!r}.{near}"
            )


def check_models(models: object) -> None:
    """Refuse experts that are neither a list nor a mapping by task.

    Raises:
        ConfigError: They are something else, a single expert for example.
    """
    what = "models: expected a list of experts, or a mapping of task to expert"
    if isinstance(models, str | bytes | os.PathLike | nn.Module | Tensor) or type(models).__name__ == "Expert":
        raise ConfigError(f"{what}, found a single one, {found(models)}. Write a list: [expert].")
    if isinstance(models, set | frozenset):
        raise ConfigError(f"{what}, found a set, which has no order. Write a list.")
    if not isinstance(models, Iterable):
        raise ConfigError(f"{what}, found {found(models)}.")
    if isinstance(models, Sized) and not len(models):
        raise ConfigError("models: expected at least one expert, found none.")
    if isinstance(models, Mapping):
        for task in models:
            if not isinstance(task, str):
                raise ConfigError(f"models: expected names of tasks as keys, found {found(task)}.")


def check_item(expert: object, position: str, keys: Sequence[str]) -> None:
    """Refuse an item of a list of experts that is no expert, path or mapping of its keys.

    Raises:
        ConfigError: It is something else, or a model in memory without a name.
    """
    if isinstance(expert, nn.Module) or (_is_state(expert) and not holds_keys(expert, keys)):
        raise ConfigError(
            f"models: {position}: a {type(expert).__name__} in memory has no name of its own; expected a task, found "
            "none. Write Expert(model, task='news'), or Merge(base, {'news': model})."
        )
    if not isinstance(expert, Mapping) and not is_path(expert):
        raise ConfigError(
            f"models: {position}: expected an Expert, a path, a hub id or a mapping of an expert's keys, found "
            f"{found(expert)}."
        )


def holds_keys(expert: object, keys: Sequence[str]) -> TypeGuard[Mapping[str, object]]:
    """Return whether a mapping holds an expert's keys, and not the tensors of a state dict."""
    return isinstance(expert, Mapping) and bool(set(expert) & set(keys))


def _is_state(expert: object) -> bool:
    return isinstance(expert, Mapping) and any(isinstance(value, Tensor) for value in expert.values())
