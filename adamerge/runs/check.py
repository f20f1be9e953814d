"""Check a configuration without learning or writing anything."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from rich.console import Console

from adamerge.data.rows import Rows
from adamerge.data.tables import load_table
from adamerge.experts.experts import Experts
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.summary import describe
from adamerge.merging.chunks import most_groups
from adamerge.merging.device import device_of
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.turn_notes import turn_notes
from adamerge.runs.begun_run import check_run_dir
from adamerge.runs.build_model import GROUPINGS, check_start, check_task_vectors, open_experts
from adamerge.runs.check_place import check_place
from adamerge.runs.choose_memory import execution_ahead, fitting
from adamerge.runs.clashes import problems_of
from adamerge.runs.components import COMPONENT, components, ranks
from adamerge.runs.config import MergeConfig
from adamerge.runs.disk_space import check_space
from adamerge.runs.learn_merge import device_line
from adamerge.runs.learning_settings import learning_of
from adamerge.runs.load_rows import Data, check_objective, load_data
from adamerge.runs.model_config import source_of
from adamerge.runs.notes import notes_of
from adamerge.runs.read_config import without_mistakes
from adamerge.runs.read_yaml import Document
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.settle_rows import settle_rows, settled
from adamerge.runs.time_needed import row_counts, time_lines
from adamerge.storage.file_names import at_home
from adamerge.types import ConfigError, IncompatibleExpertsError

QUICK = 2**30
"""Bytes of weights that are read without being asked, because it takes seconds."""


def check(config: MergeConfig, console: Console, *, deep: bool = False, mistakes: Sequence[str] = ()) -> list[str]:
    """Print a summary of the merge, and every problem in one list; writes no file.

    Args:
        config: Configuration to check.
        console: Prints the summary and the problems.
        deep: Read the weights too.
        mistakes: Problems of settings that the configuration was made without.

    Returns:
        The problems, one message each.
    """
    run = RunDirectory(at_home(config.run_dir))
    place = problems_of(lambda: check_place(run.path, config))
    problems = [*mistakes, *(place or problems_of(lambda: check_run_dir(run, "", resume=False)))]
    problems += problems_of(lambda: learning_of(config, progress_bar=False))
    lines: list[str] = []
    try:
        experts = open_experts(config)
    except (ConfigError, IncompatibleExpertsError) as error:
        problems += [*error.problems, *_problems_of_tables(config)]
    else:
        lines += [*describe(experts), *_estimates(config, experts)]
        read = _numbers(experts, deep)
        names = read.changed
        lines += read.lines
        problems += read.problems
        problems += problems_of(lambda: check_task_vectors(config, experts, names))
        starts = problems_of(lambda: check_start(config, names))
        problems += [problem for problem in starts if problem not in problems]
        data, found = _rows(config, experts, names, asked=read.whole and not problems)
        more, other = _memory(config, experts, names, data.calibration)
        lines += more
        problems = list(dict.fromkeys([*problems, *other, *found]))
        lines += list(data.notes) if problems else notes_of(config, experts, names, data)
        lines += turn_notes(experts, adapter=adapter_of(config.export) is not None)
        lines += [] if problems else [*row_counts(config, data), *time_lines(config, experts, names, data)]
        problems += problems_of(lambda: check_space(config, experts, run))
    for line in [*lines, *(f"problem: {problem}" for problem in problems)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(problems) or 'no'} problem{'s' if len(problems) > 1 else ''} found")
    return problems


def check_rest(
    layers: Sequence[Document], mistakes: Sequence[str], console: Console, *, deep: bool, allow_code: bool
) -> bool:
    """Check models and rows too where settings are wrong, if these can be left out.

    Args:
        layers: Files and options.
        mistakes: What is wrong with the settings.
        console: Prints the summary and all problems.
        deep: Read the weights too.
        allow_code: Whether the settings may name code.

    Returns:
        Whether they can; then all problems are printed.
    """
    config = without_mistakes(layers, allow_code=allow_code)
    if config is not None:
        check(config, console, deep=deep, mistakes=mistakes)
    return config is not None


def _rows(config: MergeConfig, experts: Experts, names: Sequence[str], *, asked: bool) -> tuple[Data, list[str]]:
    """Read and encode all rows; return them with the notes that `fit` prints too, and the problems.

    Args:
        config: Configuration.
        experts: Base and experts.
        names: Parameters to merge.
        asked: Ask the experts themselves, as `fit` does, instead of randomly initialised copies.
    """
    data = Data({}, {}, {}, {}, ())
    try:
        data = load_data(config, experts)
        fitting(execution_ahead(config, experts, names, data.calibration, _device(config)))  # trials take memory too
        check_objective(config, experts, data)
        data = settled(config, experts, names, data) if asked else settle_rows(data, experts, config.data)
    except ConfigError as error:
        return data, list(error.problems)
    return data, []


def _memory(
    config: MergeConfig, experts: Experts, names: Sequence[str], rows: Mapping[str, Rows]
) -> tuple[list[str], list[str]]:
    """Choose the execution, as `fit` does; return what each one takes, and the problems."""
    try:
        choice = execution_ahead(config, experts, names, rows, _device(config))
    except ConfigError as error:
        return [], list(error.problems)
    return [*choice.lines, *choice.others], [choice.problem] if choice.problem else []


def _estimates(config: MergeConfig, experts: Experts) -> list[str]:
    count, grouping = len(experts.tasks), GROUPINGS[config.grouping](experts.shared)
    groups = len(grouping)
    if config.grouping == COMPONENT:
        groups = sum(components(ranks(experts, experts.shared)).values())
    if config.chunks is not None:
        shapes = {name: experts.base.shape(name) for name in experts.shared}
        groups = most_groups(shapes, config.chunks, grouping)
    return [
        device_line(config, _device(config)),
        f"coefficients: at most {groups} groups × {count} experts = {groups * count}",
    ]


def _device(config: MergeConfig) -> torch.device:
    try:
        return device_of(config.trainer.accelerator)
    except ConfigError:  # a problem that the settings of learning report
        return device_of("cpu")


def _problems_of_tables(config: MergeConfig) -> list[str]:
    """List the problems with the rows that can be found without the models."""
    problems: list[str] = []
    for model in config.pools:
        for data in (model.calibration, model.evaluation):
            try:
                if data is not None:
                    load_table(source_of(data), model.name, config.seed_everything)
            except ConfigError as error:
                problems += error.problems
    return problems


class _Read(NamedTuple):
    """What the weights say.

    Attributes:
        changed: Parameters to merge: those in which experts differ from the base, or all shared ones.
        lines: Lines of the summary.
        problems: Why the weights cannot be used.
        whole: Whether they were read, and can be.
    """

    changed: Sequence[str]
    lines: Sequence[str] = ()
    problems: Sequence[str] = ()
    whole: bool = False


def _numbers(experts: Experts, deep: bool) -> _Read:
    """Read the weights, if that takes seconds or was asked for."""
    weights = [experts.base, *experts.weights.values()]
    size = sum(shape.numel() * dtype.itemsize for one in weights for shape, dtype in one.headers.values())
    if not deep and size > QUICK:
        return _Read(
            experts.shared,
            [f"note: {size / 1e9:.1f} GB of weights were not read; --deep reads them, as fit does, and says more."],
        )
    try:
        found = inspect_weights(experts)
    except IncompatibleExpertsError as error:
        return _Read(experts.shared, (), error.problems)
    lines = [f"warning: {warning}" for warning in found.warnings]
    if deep:
        lines += [f"{task}: ‖expert − base‖ / ‖base‖ = {size:.4f}" for task, size in found.update.items()]
        lines.append(f"equal in all experts, so without coefficients: {', '.join(found.unchanged) or 'none'}")
    return _Read(found.changed, lines, (), whole=True)
