"""What can be known before anything is learned."""

from rich.console import Console

from adamerge.config import MergeConfig
from adamerge.experts import Experts
from adamerge.inspection import inspect_weights
from adamerge.job import GROUPINGS, describe, free_bytes, load_data, open_experts
from adamerge.task_vectors import resident_bytes
from adamerge.types import ConfigError, IncompatibleExpertsError


def check(config: MergeConfig, console: Console, *, deep: bool = False) -> list[str]:
    """Print what would be merged, and every problem in one list.

    Args:
        config: What would be merged.
        console: Where to print.
        deep: Read the weights too.

    Returns:
        The problems.
    """
    problems: list[str] = []
    try:
        experts = open_experts(config)
    except (ConfigError, IncompatibleExpertsError) as error:
        problems += str(error).splitlines()
    else:
        for line in [*describe(experts), *_estimates(config, experts)]:
            console.print(line, markup=False, highlight=False)
        problems += _problems_of_data(config, experts)
        if deep:
            problems += _problems_of_numbers(experts, console)
    for problem in problems:
        console.print(f"problem: {problem}", markup=False, highlight=False, soft_wrap=True)
    console.print("no problem found" if not problems else f"{len(problems)} problems found")
    return problems


def _estimates(config: MergeConfig, experts: Experts) -> list[str]:
    shapes = {name: experts.base.shape(name) for name in experts.shared}
    count, groups = len(experts.tasks), len(GROUPINGS[config.grouping](experts.shared))
    model = sum(shape.numel() for shape in shapes.values()) * 4 / 1e6
    stacks, free = resident_bytes(shapes, count) / 1e6, free_bytes_of_cpu() / 1e6
    return [
        f"coefficients: at most {groups} groups × {count} experts = {groups * count}",
        f"memory: merged model and gradient {2 * model:.0f} MB, activations of one batch come on top; task vectors "
        f"resident {stacks:.0f} MB, mapped 4 MB; {free:.0f} MB are free",
    ]


def _problems_of_data(config: MergeConfig, experts: Experts) -> list[str]:
    try:
        load_data(config, experts)
    except ConfigError as error:
        return [str(error)]
    return []


def _problems_of_numbers(experts: Experts, console: Console) -> list[str]:
    try:
        found = inspect_weights(experts)
    except IncompatibleExpertsError as error:
        return str(error).splitlines()
    for warning in found.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    for task, size in found.update.items():
        console.print(f"{task}: ‖expert − base‖ / ‖base‖ = {size:.4f}", highlight=False)
    console.print(f"unchanged in all experts, so without a coefficient: {', '.join(found.unchanged) or 'none'}", highlight=False)
    return []


def free_bytes_of_cpu() -> int:
    """Free memory of this machine."""
    import torch

    return free_bytes(torch.device("cpu"))
