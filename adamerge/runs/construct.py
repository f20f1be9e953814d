"""Construct objects from their options, and find every option whose value their class refuses."""

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

import torch
from pytorch_lightning.loggers import Logger
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from adamerge.learning.loggers import with_place
from adamerge.runs.type_hints import Option
from adamerge.storage.regular_files import reason_of

INVALID: Final = object()
"""Placeholder for a value that could not be built."""


class Refusal(NamedTuple):
    """What a class refuses.

    Attributes:
        name: Option with the refused value; None if no single option is to blame.
        problem: Message without the name of the option.
    """

    name: str | None
    problem: str


@dataclass(frozen=True)
class Options:
    """Values of a class's options.

    Attributes:
        values: Values by name; INVALID where a required option has no usable value.
        dropped: Options that were written, but whose values cannot be used.
    """

    values: Mapping[str, object]
    dropped: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether every value that was written is used."""
        return not self.dropped

    def without(self, name: str, required: bool) -> "Options":
        """Drop an option: it gets its default, or INVALID if it is required."""
        left = {other: value for other, value in self.values.items() if other != name}
        return replace(self, values=left | ({name: INVALID} if required else {}), dropped=self.dropped | {name})


def usable(known: Mapping[str, Option], built: Mapping[str, object]) -> Options:
    """Collect the options of a class that have a usable value.

    Args:
        known: Options of the class.
        built: Values of the options that were written; INVALID after a mistake.
    """
    required = {name: INVALID for name, option in known.items() if option.required}
    values = {name: value for name, value in built.items() if value is not INVALID}
    unusable = {name for name in (*required, *built) if name not in values}
    return Options(required | values, frozenset(unusable))


def refusals(make: Callable[..., object], known: Mapping[str, Option], options: Options) -> Iterator[Refusal]:
    """Yield every value that a class refuses: drop the option that a refusal is about, and try again.

    A refusal counts if all that was written is used, or if it can be about the value of a single option only.

    Args:
        make: Class, or function that calls it.
        known: Options of the class.
        options: Their values.

    Example:
        >>> from adamerge.objectives import Entropy
        >>> known = {"temperature": Option(float, required=False)}
        >>> list(refusals(Entropy, known, Options({"temperature": 0.0})))
        [Refusal(name='temperature', problem='expected a number above 0, found 0.0.')]
    """
    message = refused(make, options)
    if message is None:
        return
    found = _named(message, options.values) or Refusal(_responsible(make, known, options, message), message)
    if found.name is None or options.values[found.name] is INVALID:
        if options.complete:
            yield Refusal(None, message)
        return
    if options.complete or not any(_mentions(message, name) for name in options.dropped):
        yield found
    yield from refusals(make, known, options.without(found.name, known[found.name].required))


def refused(make: Callable[..., object], options: Options) -> str | None:
    """Return the message with which a class refuses its options; None if it accepts them."""
    try:
        with warnings.catch_warnings(action="ignore"):
            make(**options.values)
    except ValueError as error:
        return str(error)
    except (TypeError, AttributeError, RuntimeError, ArithmeticError) as error:  # perhaps on INVALID
        return str(error) if options.complete else None
    return None


def on_trial(cls: type) -> Callable[..., object]:
    """Return a function that builds an optimiser or a scheduler on one temporary coefficient, to check its options.

    A logger is built where it writes nothing.
    """
    if issubclass(cls, Logger):
        return partial(_logger, cls)
    parameters = [torch.nn.Parameter(torch.zeros(1, 1))]
    make = partial(cls, parameters) if issubclass(cls, Optimizer) else partial(_step, cls, parameters)
    return partial(_finite, make)


def _logger(cls: Callable[..., Logger], **options: object) -> Logger:
    """Build a logger; nothing is written before it logs.

    Raises:
        ValueError: What it needs is not installed.
    """
    try:
        return with_place(cls, os.devnull, **options)
    except ImportError as error:
        raise ValueError(f"{cls.__name__} cannot be used here: {reason_of(error)}") from error


def _finite(make: Callable[..., object], **options: object) -> object:
    """Build an object of finite options only; torch accepts an infinite learning rate."""
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, found {value}.")
    return make(**options)


def _step(cls: Callable[..., LRScheduler], parameters: list[torch.nn.Parameter], **options: object) -> None:
    """Build a scheduler and take a step."""
    optimizer = SGD(parameters, lr=1.0)
    scheduler = cls(optimizer, **options)
    optimizer.step()
    scheduler.step()


def _named(message: str, names: Mapping[str, object]) -> Refusal | None:
    """Split a message that begins with the name of an option, such as `data.rows: expected …` or `a: rows: …`."""
    parts = message.split(": ")
    for end, part in enumerate(parts[:2], start=1):
        name = part.rpartition(".")[2]
        if name in names and end < len(parts):
            return Refusal(name, ": ".join(parts[end:]))
    return None


def _responsible(
    make: Callable[..., object], known: Mapping[str, Option], options: Options, message: str
) -> str | None:
    """Find the option without which the message changes; prefer one that the message mentions."""
    names = [name for name, value in options.values.items() if value is not INVALID]
    names.sort(key=lambda name: (not _mentions(message, name), known[name].required))
    tried = ((name, options.without(name, known[name].required)) for name in names)
    return next((name for name, fewer in tried if refused(make, fewer) != message), None)


def _mentions(message: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", message) is not None
