"""What can be known before anything is learned."""

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from adamerge.data.tables import load_table
from adamerge.experts.experts import Experts
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.summary import describe
from adamerge.merging.task_vectors import resident_bytes
from adamerge.runs.build_model import GROUPINGS, check_start, check_task_vectors, free_bytes, open_experts
from adamerge.runs.config import MergeConfig, source_of
from adamerge.runs.learning_settings import learning_notes, learning_of
from adamerge.runs.load_rows import check_layers, load_data
from adamerge.runs.run_directory import RunDirectory, check_run_dir, check_space
from adamerge.types import ConfigError, IncompatibleExpertsError


def check(config: MergeConfig, console: Console, *, deep: bool = False) -> list[str]:
    """Print what would be merged, and every problem in one list. Writes nothing.

    Args:
        config: What would be merged.
        console: Where to print.
        deep: Read the weights too.

    Returns:
        The problems.
    """
    run = RunDirectory(Path(config.run_dir).expanduser())
    problems = _found(lambda: check_run_dir(run, "", resume=False))
    problems += _found(lambda: learning_of(config, progress_bar=False))
    lines: list[str] = []
    try:
        experts = open_experts(config)
    except (ConfigError, IncompatibleExpertsError) as error:
        problems += str(error).splitlines() + _problems_of_tables(config)
    else:
        lines += [*describe(experts), *_estimates(config, experts)]
        problems += _found(lambda: check_task_vectors(config, experts, experts.shared))
        problems += [found for found in _found(lambda: check_start(config, experts.shared)) if found not in problems]
        problems += _found(lambda: check_layers(config.objective, experts, load_data(config, experts)))
        lines += [] if problems else learning_notes(config)
        problems += _found(lambda: check_space(config, experts, run))
        if deep:
            more, found = _numbers(experts)
            lines += more
            problems += found
    for line in [*lines, *(f"problem: {problem}" for problem in problems)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(problems) or 'no'} problem{'s' if len(problems) > 1 else ''} found")
    return problems


def _estimates(config: MergeConfig, experts: Experts) -> list[str]:
    shapes = {name: experts.base.shape(name) for name in experts.shared}
    count, groups = len(experts.tasks), len(GROUPINGS[config.grouping](experts.shared))
    if config.chunks is not None:
        groups = round(config.chunks.budget * groups)
    model = sum(shape.numel() for shape in shapes.values()) * 4 / 1e6
    stacks, free = resident_bytes(shapes, count) / 1e6, free_bytes(torch.device("cpu")) / 1e6
    return [
        f"coefficients: at most {groups} groups × {count} experts = {groups * count}",
        f"memory: merged model and gradient {2 * model:.0f} MB, activations of one batch come on top; task vectors "
        f"resident {stacks:.0f} MB, mapped 4 MB; {free:.0f} MB are free",
    ]


def _found(look: Callable[[], object]) -> list[str]:
    """The problems that a function raises, one a line."""
    try:
        look()
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _problems_of_tables(config: MergeConfig) -> list[str]:
    """What is wrong with the rows as far as it can be told without the models."""
    problems: list[str] = []
    for model in config.models:
        for data in (model.calibration, model.evaluation):
            try:
                if data is not None:
                    load_table(source_of(data), model.name, config.seed_everything)
            except ConfigError as error:
                problems += str(error).splitlines()
    return problems


def _numbers(experts: Experts) -> tuple[list[str], list[str]]:
    """What the weights themselves tell, and the problems with them."""
    try:
        found = inspect_weights(experts)
    except IncompatibleExpertsError as error:
        return [], str(error).splitlines()
    lines = [f"warning: {warning}" for warning in found.warnings]
    lines += [f"{task}: ‖expert − base‖ / ‖base‖ = {size:.4f}" for task, size in found.update.items()]
    return [*lines, f"unchanged in all experts, so without a coefficient: {', '.join(found.unchanged) or 'none'}"], []
