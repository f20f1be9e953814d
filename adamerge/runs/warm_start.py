"""Start from the coefficients of an earlier run, by task and by the names of groups and parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast, get_args

import torch

from adamerge.merging.coefficients import COEFFICIENTS, Table, load_coefficients
from adamerge.merging.grouping import Grouping, block_wise, task_wise, tensor_wise
from adamerge.results.factors import Factors, apart, factors_in
from adamerge.runs.config import MergeConfig, Start
from adamerge.runs.earlier_run import EarlierRun, is_place
from adamerge.runs.flat_settings import flat, flat_settings
from adamerge.runs.inputs import read_recipe
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.save_config import settings
from adamerge.storage.file_names import at_home
from adamerge.types import Coefficients, ConfigError

_COARSE = {"task": task_wise, "block": block_wise}
"""Groups of several tensors."""


class Warm(NamedTuple):
    """A start from an earlier run.

    Attributes:
        coefficients: The start, (G, K).
        new_groups: Groups that the run does not know.
        averaged: Groups whose start is the mean over several groups of the run.
        new_columns: Columns that the run does not know.
    """

    coefficients: Coefficients
    new_groups: Sequence[str]
    averaged: Sequence[str]
    new_columns: Sequence[str]


def with_earlier_run(content: Mapping[str, object]) -> dict[str, object]:
    """Read a path under `init` as an earlier run; other texts stay, and are refused later if they are no start.

    Args:
        content: Keys and values of a configuration.

    Example:
        >>> with_earlier_run({"init": "average"}), with_earlier_run({"init": "/runs/first"})
        ({'init': 'average'}, {'init': EarlierRun(path='/runs/first')})
    """
    init = content.get("init")
    if not isinstance(init, str | Path) or init in get_args(Start) or not is_place(init):
        return dict(content)
    return {**content, "init": EarlierRun(str(at_home(init).absolute()))}


def start_from(config: MergeConfig, grouping: Grouping) -> Coefficients:
    """Take the start from an earlier run: (G, K).

    Args:
        config: Configuration whose init is an earlier run.
        grouping: Grouping of the parameters.

    Raises:
        ConfigError: The run has no coefficients, or they are of another centre, or of no task or parameter of this one.
    """
    return warm_start(_open(config)[0], grouping, config.columns, _usual(config)).coefficients


def _usual(config: MergeConfig) -> list[float]:
    """Return the usual start of every column: what is beside the experts starts at 0."""
    beside = len(config.models_beside)
    return [float(config.start)] * (len(config.columns) - beside) + [0.0] * beside  # pyright: ignore


def without_other_centre(config: MergeConfig, race: Path) -> tuple[MergeConfig, list[str]]:
    """Start as usual, and say so, where a race found another centre than that of the earlier run.

    Args:
        config: Configuration.
        race: Table of this run's race, if there was one.
    """
    if not isinstance(config.init, EarlierRun) or config.centre_name != "auto":
        return config, []
    run = RunDirectory(Path(config.init.path))
    then, now = (_winner(file) for file in (run.race, race))
    former = _factors_in(run, f"auto: {then}", plain=False)
    options = apart(former.centre, _factors(config, f"auto: {now}").centre) if former and then == now else None
    if then == now and not options:
        return config, []
    then, now = (word.removeprefix("auto: ") for word in options or (then, now))
    line = (
        f"warning: init: the coefficients of {config.init.path} are not used, and all start as usual: they are over "
        f"the centre {then or 'auto'}, and the race has found {now}"
    )
    return replace(config, init="published"), [line]


def named_centre(config: MergeConfig, race: Path) -> str:
    """Return the name of the centre; of one that a race found, with the winner: auto: Isotropic × 0.7.

    Args:
        config: Configuration.
        race: Table of the run's race, if there was one.
    """
    return ": ".join(filter(None, [config.centre_name, _winner(race) if config.centre_name == "auto" else ""]))


def _winner(race: Path) -> str:
    """Return the centre that a race found; empty without its table."""
    return str(json.loads(race.read_text(encoding="utf-8")).get("winner", "")) if race.is_file() else ""


def _open(config: MergeConfig) -> tuple[Table, list[str]]:
    """Open the earlier run's coefficients, without the columns of merges that are others here; name these."""
    assert isinstance(config.init, EarlierRun)
    run = Path(config.init.path)
    if not (run / COEFFICIENTS).is_file():
        raise ConfigError(
            f"init: {run}: expected the directory of a finished run, but it has no {COEFFICIENTS}. Correct the path."
        )
    if (recipe := RunDirectory(run).recipe).is_file():
        read_recipe(recipe)
    found = load_coefficients(run / COEFFICIENTS)
    then = _factors_in(RunDirectory(run), found.centre, plain=found.plain)
    of = (then.centre.name if then else found.centre or config.centre_name).partition(":")[0]
    if of.lower() != config.centre_name.lower():  # earlier runs wrote Auto where the race had options
        taken = ", because its guard exported a merge of plain task vectors" * found.plain
        raise ConfigError(
            f"init: {run}: expected coefficients over the centre {config.centre_name}, found them over {of}{taken}; "
            "they are factors of other task vectors. Set the same centre, or another init."
        )
    now = _factors(config, of)
    if then and (transforms := apart(now.transform, then.transform)):
        raise ConfigError(
            f"init: {run}: expected coefficients of task vectors with the transform {transforms[0]}, found them with "
            f"{transforms[1]}; they are factors of other task vectors. Set the same task_vectors, or another init."
        )
    if then and config.centre_name != "auto" and (centres := apart(now.centre, then.centre._replace(name=of))):
        raise ConfigError(
            f"init: {run}: expected coefficients over the centre {centres[0]}, found them over {centres[1]}; they are "
            "factors of other task vectors. Set the same centre, or another init."
        )
    others = _other_merges(then, now, found.experts) if then else {}
    kept = [k for k, name in enumerate(found.experts) if name not in others]
    found = found._replace(experts=tuple(found.experts[k] for k in kept), coefficients=found.coefficients[:, kept])
    if not set(found.experts) & set(config.columns):
        raise ConfigError(
            f"init: {run}: expected coefficients of {', '.join(config.columns)}, found those of "
            f"{', '.join(found.experts)}. Correct the path, or set task: of the models to the names of that run."
        )
    return found, [f"{name} ({' there, '.join(words)} here)" for name, words in others.items()]


def _other_merges(then: Factors, now: Factors, columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Say how merges beside the experts differ that have the same column in both."""
    both = [name for name in columns if name in then.beside and name in now.beside]
    return {name: words for name in both if (words := apart(then.beside[name], now.beside[name]))}


def _factors_in(run: RunDirectory, centre: str | None, *, plain: bool) -> Factors | None:
    """Return what the coefficients of a run are factors of; None if its configuration is not there."""
    if not plain and not run.config.is_file():
        return None
    return factors_in({} if plain else flat_settings(run.config.read_text(encoding="utf-8")), centre, plain=plain)


def _factors(config: MergeConfig, centre: str) -> Factors:
    return factors_in(cast(Mapping[str, object], flat(settings(config))), centre, plain=False)


def warm_start(earlier: Table, grouping: Grouping, columns: Sequence[str], usual: Sequence[float]) -> Warm:
    """Compute the start of every group and column.

    A group takes the coefficient of the group of its name; without one, the mean over its parameters' rows. Groups and
    columns that the run does not know start as usual.

    Args:
        earlier: Coefficients of the earlier run.
        grouping: Grouping of the parameters.
        columns: Names of the columns.
        usual: Start of what is new, by column.

    Example:
        >>> then = Table(torch.tensor([[0.5], [0.25]]), tensor_wise(["a", "b"]), ("news",))
        >>> warm_start(then, tensor_wise(["b", "c"]), ["news", "mail"], [0.125, 0.0]).coefficients
        tensor([[0.2500, 0.0000],
                [0.1250, 0.0000]])
    """
    by_name, by_parameter = earlier.by_group(), earlier.by_parameter()
    table = torch.tensor(usual).repeat(len(grouping), 1)
    known = [(k, earlier.experts.index(name)) for k, name in enumerate(columns) if name in earlier.experts]
    new: list[str] = []
    averaged: list[str] = []
    for row, (group, names) in enumerate(grouping.members().items()):
        means = [by_parameter[name] for name in names if name in by_parameter]
        found = by_name.get(group, torch.stack(means).mean(0) if means else None)
        if found is None:
            new.append(group)
            continue
        several = {int(own) for name in names for own in earlier.grouping.rows.get(name, ())}
        averaged += [group] if group not in by_name and len(several) > 1 else []
        for here, there in known:
            table[row, here] = found[there]
    return Warm(table, new, averaged, [name for name in columns if name not in earlier.experts])


def warm_notes(config: MergeConfig, names: Sequence[str]) -> list[str]:
    """Say what an earlier run starts, and what it does not know.

    Args:
        config: Configuration whose init is an earlier run.
        names: Parameters that are merged.
    """
    earlier, others = _open(config)
    usual = dict(zip(config.columns, _usual(config), strict=True))
    grouping = _COARSE.get(config.grouping, tensor_wise)(names)
    found = warm_start(earlier, grouping, config.columns, [*usual.values()])
    assert isinstance(config.init, EarlierRun)
    taken, what = len(grouping) - len(found.new_groups), "groups" if config.grouping in _COARSE else "parameters"
    notes = [f"note: {taken} of {len(grouping)} {what} start from {config.init.path}"]
    if found.averaged:
        notes.append(f"note: {len(found.averaged)} of them had several coefficients there, and start from their mean")
    if others:
        notes.append(f"note: merges with other options, so their coefficients are not used: {', '.join(others)}")
    if found.new_columns:
        new = ", ".join(f"{name} at {usual[name]:g}" for name in found.new_columns)
        notes.append(f"note: new, so they start as usual: {new}")
    if gone := [name for name in earlier.experts if name not in config.columns]:
        notes.append(f"note: not in this merge, so their coefficients are not used: {', '.join(gone)}")
    return notes
