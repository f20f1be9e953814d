"""Write a commented configuration from a base and a list of experts, or from one of mergekit."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from adamerge.runs.from_mergekit import Beginning, read_mergekit
from adamerge.runs.mergekit_values import Named
from adamerge.storage.atomic_files import write_named
from adamerge.storage.file_names import at_home, is_there, last_part
from adamerge.types import ConfigError

HEAD = """\
# Configuration of adamerge. Keys that are not here have the values of the method: adamerge fit --help explains all.
#   adamerge check {file}     lists every problem, and writes nothing
#   adamerge fit {file}       merges, exports and measures
"""
ROWS = """\
    # Rows of this task: a file (.jsonl, .csv, .parquet) with a column "text", a folder of images, or
    # {path: …, text: column}. Unlabeled rows to learn from, labeled rows to measure with:
    # calibration: data/NAME.jsonl
    # evaluation: {path: data/NAME_test.jsonl, label: label}
"""
LATER = """\
# With calibration rows for the tasks, remove the line `method:`; the default, auto, then learns from them.
# adamerge methods lists all methods.
"""


def init(models: Sequence[str], mergekit: str | None, file: Path, console: Console) -> None:
    """Write a commented configuration.

    Args:
        models: The base, then the experts; the base alone, or nothing, with a configuration of mergekit.
        mergekit: A configuration of mergekit to begin with.
        file: The file to write; must not exist.
        console: Prints what to do next, and what does not carry over.

    Raises:
        ConfigError: There is no base, no expert, one twice, experts besides those of mergekit, or the file exists.
    """
    if file.exists():
        raise ConfigError(f"{file}: exists already; choose another file with --out.")
    if mergekit and models[1:]:
        raise ConfigError(
            f"init: expected the base alone beside --from_mergekit, whose file names the experts, found "
            f"{', '.join(models[1:])} too. Add them to {file} afterwards."
        )
    places = [os.path.normpath(at_home(model)) for model in models]
    if twice := dict.fromkeys(model for model, own in zip(models, places, strict=True) if places.count(own) > 1):
        raise ConfigError(f"init: expected different models, found one twice: {', '.join(twice)}.")
    given = models[0] if models else None
    found = read_mergekit(at_home(mergekit), given) if mergekit else Beginning(None, {})
    base = given or found.base_model
    experts = dict(found.models) if mergekit else dict.fromkeys(map(Named, models[1:]))
    if base is None or not experts:
        missing = "a base" if base is None else "at least one expert"
        raise ConfigError(
            f"init: expected {missing}, found none. Write: adamerge init BASE EXPERT EXPERT …"
            + (" (this mergekit configuration names no base_model)" if mergekit and base is None else "")
        )
    write_named(file, "".join(_lines(base, experts, found, file)))
    for line in (f"{file}", f"next: adamerge check {file}"):
        _print(console, line)
    places = dict.fromkeys(place for one in (Named(base), *experts) for place in (one.model, one.adapter) if place)
    if ids := [place for place in places if not is_there(place)]:
        _print(console, f"note: there is no such folder, so these are ids on the hub: {', '.join(ids)}")
    for line in found.dropped:
        _print(console, f"note: not carried over from {mergekit}: {line}")


def _lines(base: str, experts: Mapping[Named, object], found: Beginning, file: Path) -> Iterator[str]:
    yield HEAD.format(file=file)
    for line in found.dropped:
        yield f"# not carried over: {' '.join(line.split())}\n"
    yield f"base_model: {_scalar(base)}\nmodels:\n"
    tasks = task_names([expert.adapter or expert.model for expert in experts])
    for number, ((expert, weight), task) in enumerate(zip(experts.items(), tasks, strict=True)):
        own = last_part(expert.adapter or expert.model)
        yield f"  - model: {_scalar(expert.model)}\n"
        yield f"    adapter: {_scalar(expert.adapter)}\n" if expert.adapter else ""
        yield f"    task: {_scalar(task)}\n" if task != own else ""
        if weight is not None:
            yield f"    parameters: {{weight: {json.dumps(weight)}}}\n"
        yield ROWS.replace("NAME", task) if number == 0 else ""
    yield LATER
    yield f"method: {found.method or ('wudi' if len(experts) > 1 else 'task_arithmetic')}\n"
    yield "grouping: tensor\n" if any(isinstance(weight, list) for weight in experts.values()) else ""
    yield f"out_dtype: {found.out_dtype}\n" if found.out_dtype else ""
    yield f"tokenizer: {_scalar(found.tokenizer)}\n" if found.tokenizer else ""
    yield "run_dir: runs/first\n"


def task_names(places: Sequence[str]) -> list[str]:
    """Name experts by the last part of their places, or by the fewest parts that tell those of one name apart.

    Args:
        places: Paths or hub ids.

    Example:
        >>> task_names(["news/final", "mail/final", "org/topic"]), task_names(["org/news@v1", "org/news@v2"])
        (['news-final', 'mail-final', 'topic'], ['news@v1', 'news@v2'])
    """
    names = [last_part(place) for place in places]
    parts = [[part for part in Path(os.path.normpath(place)).parts if part != "/"] for place in places]
    for count in range(1, max(map(len, parts)) + 1):
        if len(set(names)) == len(names):
            break
        longer = ["-".join(own[-count:]) for own in parts]
        names = [more if names.count(name) > 1 else name for name, more in zip(names, longer, strict=True)]
    return names


def _scalar(text: str) -> str:
    """Write a text as YAML on one line."""
    return yaml.safe_dump(text, width=10**6, allow_unicode=True).removesuffix("\n...\n").rstrip("\n")


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
