"""What was probably meant: the nearest known key or class for one that is unknown."""

import difflib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from adamerge.callbacks import Watching
from adamerge.config import PRESETS, MergeConfig, ModelConfig, TrainerConfig
from adamerge.data import Batching, DataSource
from adamerge.experts import Split
from adamerge.feasible import FeasibleSet
from adamerge.objectives import Objective
from adamerge.transforms import Transform
from adamerge.zero_shot import ZeroShot

_SECTIONS = (MergeConfig, ModelConfig, TrainerConfig, Batching, Watching, Split, DataSource, ZeroShot)
_CHOICES = (FeasibleSet, Objective, Transform)

_UNKNOWN = re.compile(
    r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)|Key '?\"?([\w.]+)\"?'? is not expected"
    r"|dot import path string: (\w+)|Got value: (\w+)|invalid choice: '([\w.]+)'|Unknown argument '([\w.]+)'"
)


def explain(message: str) -> str:
    """A parser's message, and below it the known words that are nearest to the unknown one.

    Example:
        >>> print(explain("Option 'calibratoin' is not accepted"))
        Option 'calibratoin' is not accepted
        Did you mean calibration?
    """
    found = _UNKNOWN.search(message)
    if not found:
        return message
    word = next(group for group in found.groups() if group).split(".")[-1]
    near = difflib.get_close_matches(word, sorted(set(_words())), n=2, cutoff=0.6)
    return f"{message}\nDid you mean {' or '.join(near)}?" if near else message


def _words() -> Iterator[str]:
    """Every key of the configuration, every class that can be named in it, and every option of those."""
    for section in _SECTIONS:
        yield from (field.name for field in fields(section))
    for choice in _CHOICES:
        for cls in choice.__subclasses__():
            yield cls.__name__
            yield from (f.name for f in fields(cls)) if is_dataclass(cls) else inspect.signature(cls).parameters
    yield from PRESETS
    yield from ("task", "block", "tensor", "resident", "mapped", "auto", "fit", "check", "export", "evaluate", "demo")
