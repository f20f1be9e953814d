"""What was probably meant: the nearest known key or class for one that is unknown."""

import difflib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from adamerge.calibration.closed_form import ClosedForm
from adamerge.calibration.regmean import RegMean
from adamerge.data.settings import Batching, DataSource, PseudoAnswers
from adamerge.experts.name_patterns import Split
from adamerge.experts.zero_shot import ZeroShot
from adamerge.learning.keep_best import Watching
from adamerge.merging.chunks import Chunks
from adamerge.objectives import Objective, Regulariser
from adamerge.optim import Descent, SearchingOptimizer
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.runs.config import MergeConfig, ModelConfig, TrainerConfig
from adamerge.transforms import Transform

_SECTIONS = (
    MergeConfig, ModelConfig, TrainerConfig, Batching, PseudoAnswers, Watching, Split, DataSource, ZeroShot,
    Regulariser, Chunks, ClosedForm, RegMean,
)  # fmt: skip
_CHOICES = (FeasibleSet, Objective, Transform, Descent, Optimizer, LRScheduler)

_NOISE = re.compile(
    r"Does not validate against|Subtypes: |Errors:$|- Expected a <class 'NoneType'>|Given value(?: type)?: [{N<]|"
    r"- Import path \S+ does not correspond to a subclass|- Type .*: Expected \S+ to be a subclass|"
    r"- Expected an instantiatable class"
)
"""Lines of jsonargparse's messages that repeat what was written or tell of its own types."""

_NO_CLASS = "- Expected a dot import path string"
"""Where a key takes classes of two kinds, what is said of the kind that was not meant."""

_NO_WORD = re.compile(r"- Expected a (typing\.Literal|<class 'float'>)")
_LACKING = "the following arguments are required: "
_NAMED = re.compile(rf"{_LACKING}|Key '[\w.]+' is not expected|Option '[\w.]+' is not accepted")
"""Where a key takes words as well as classes, a class that was named with wrong options is no misspelt word."""

_PLAINLY = [
    (re.compile(phrase), plain)
    for phrase, plain in (
        (r'Parser key "([\w.]+)": *', r"\1: "),
        (r"Problem with given class_path 'adamerge.(?:config.ModelConfig|chunks.Chunks)': *", ""),
        (r"Problem with given class_path '[\w.]*?(\w+)': *", r"\1: "),
        (r"Type .* expects a function or a callable class: (.*?)(?:\. Got value: .*|$)", r"\1"),
        (r"(?:Subcommand '\w+' does not accept option|Option) '([\w.]+)'(?: is not accepted)?", r"there is no key \1"),
        (r"Key '([\w.]+)' is not expected", r"there is no key \1"),
        (r"unrecognized arguments: (\S+).*", r"there is no option \1"),
        (r"argument \S+ invalid choice: '(\S+)' \(choose from (.*)\)", r"there is no command \1; known are \2"),
        (r"Expected a dot import path string: (\S+)", r"there is no class \1"),
        (r"Expected a <class 'float'> Expected a typing\.Literal\[", r"Expected a typing.Literal[a number, "),
        (r"Expected a typing\.Literal\[(.*)\]", r"expected one of \1"),
        (r"Expected a <class '(?:\w+\.)*(\w+)'>", r"expected \1"),
        (r"\.? (?:Got|Given) value: ", ", got "),
        (_LACKING, "missing: "),
        (r"\b(?:fit|check|export|evaluate)\.(?=base_model|models|run|out)", ""),
    )
]
"""jsonargparse's phrases and ours."""

_UNKNOWN = re.compile(r"there is no (?:key|class|command|option) -*([\w.+]+)|expected one of (.*), got (\S+)")


def explain(message: str) -> str:
    """What a parser complains of in plain words, with the known word that is nearest to an unknown one.

    Example:
        >>> explain("Subcommand 'fit' does not accept option 'data.batchsize'")
        'there is no key data.batchsize. Did you mean batch_size?'
    """
    lines = [line.strip() for line in message.splitlines()]
    lines = list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))
    if any(_NAMED.search(line) for line in lines):
        lines = [line for line in lines if not _NO_WORD.match(line)]
    meant = [line for line in lines if line.startswith("- ") and not line.startswith(_NO_CLASS)]
    message = " ".join(line.removeprefix("- ") for line in lines if not (meant and line.startswith(_NO_CLASS)))
    for phrase, plain in _PLAINLY:
        message = phrase.sub(plain, message)
    found = _UNKNOWN.search(message)
    if not found:
        return message
    key, choices, choice = found.groups()
    section, _, word = (key or choice).rpartition(".")
    if key and word in ("yaml", "yml"):
        return f"{message}. Did you mean --config {key}?"
    if choices:
        known = [*re.findall(r"'(.*?)'", choices), *(cls.__name__ for cls in _classes())]
    else:
        known = _keys_of(section) or sorted(set(_words()))
    near = [other for other in difflib.get_close_matches(word, known, n=1) if other != word]  # it may be out of place
    return f"{message}. Did you mean {near[0]}?" if near else message


def _keys_of(section: str) -> list[str]:
    """Keys of a section of the configuration; none where it is not one that is always of the same kind."""
    kinds = {"trainer": TrainerConfig, "data": Batching, "watch": Watching, "parameters": Split}
    return [field.name for field in fields(kinds[section])] if section in kinds else []


def _classes() -> Iterator[type]:
    """Every class that can be named in the configuration."""
    for choice in _CHOICES:
        yield from (cls for cls in _below(choice) if not inspect.isabstract(cls))


def _below(kind: type) -> Iterator[type]:
    for cls in kind.__subclasses__():
        if cls is not SearchingOptimizer:  # which its options build
            yield cls
            yield from _below(cls)


def _words() -> Iterator[str]:
    """Every key of the configuration, every class that can be named in it, every option of those, every command."""
    for section in _SECTIONS:
        yield from (field.name for field in fields(section))
    for cls in _classes():
        yield cls.__name__
        yield from (f.name for f in fields(cls)) if is_dataclass(cls) else inspect.signature(cls).parameters
    yield from ("config", "ckpt_path", "deep", "fit", "check", "export", "evaluate", "demo")
