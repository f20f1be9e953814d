"""Refuse, before anything is learned, merges that no adapter can hold."""

from collections.abc import Iterator, Sequence

from adamerge.calibration.calibrated_merge import CalibratedMerge
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.low_rank import Adapted
from adamerge.experts.name_patterns import several
from adamerge.optim.feasible_sets import Simplex
from adamerge.results.adapter_layout import slots_of
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.adapter_targets import is_in, saved_modules
from adamerge.runs.config import MergeConfig
from adamerge.types import ConfigError

SHOWN = 3
"""Number of parameters that a refusal names per expert."""


def check_adapter(config: MergeConfig, experts: Experts, names: Sequence[str]) -> None:
    """Check that a merge may have the form of an adapter, if that is what is exported.

    Experts that change whole tensors are refused unless they may get no weight: nothing is learned, or a simplex is
    the feasible set and selects experts. Then the export refuses them by parameter if they have weight.

    Raises:
        ConfigError: A transform or an expert makes changes that are no products of the adapters' factors.
    """
    if adapter_of(config.export) is None:
        return
    where = _of_experts(experts, names)
    problems = [
        f"{key}: {type(transform).__name__} leaves the span of the adapters' factors{where}"
        for key, transform in config.transforms.items()
        if not transform.keeps_span
    ]
    by_rows = {"centre": config.centre, **{f"beside: {name}": model for name, model in config.models_beside.items()}}
    problems += [
        f"{key}: {type(model).__name__} leaves the span of the adapters' factors{where}"
        for key, model in by_rows.items()
        if isinstance(model, CalibratedMerge) and not model.keeps_span
    ]
    selects = config.trainer.max_steps == 0 or isinstance(config.feasible, Simplex)
    if config.centre is not None or config.task_vectors is not None or not selects:
        problems += [line for expert in experts.tasks.values() for line in _whole(expert, set(names))]
    problems += list(dict.fromkeys(line for expert in experts.tasks.values() for line in placeless(expert, names)))
    if problems:
        raise ConfigError(
            "export: adapter: expected changes that are products of low-rank factors, found others:\n"
            + "\n".join(problems)
            + "\nSet export: checkpoint; or merge adapters alone, plainly or by Isotropic, Wudi (solver: closed), "
            "Swudi, Aswudi, ActMat, DcMerge, TaskSingularVectors, Lines or RegMean."
        )


def _of_experts(experts: Experts, names: Sequence[str]) -> str:
    """Name the parameters that are merged and that experts change, a few of them, and say how many there are."""
    changed = {name for expert in experts.tasks.values() for name in _changed(expert, names)}
    own = [name for name in names if name in changed]
    return f" in {several(own)}: {len(own)} in all" if own else ""


def _changed(expert: Expert, names: Sequence[str]) -> Sequence[str]:
    own = expert.weights
    return own.changed if isinstance(own, Adapted) and own.over_base else names


def _whole(expert: Expert, names: set[str]) -> Iterator[str]:
    """Say what an expert changes without factors."""
    if not isinstance(expert.weights, Adapted) or not expert.weights.over_base:
        yield f"{expert.name}: a complete checkpoint; give it as an adapter"
        return
    changes = {name: expert.weights.change(name) for name in expert.weights.changed if name in names}
    whole = {name: change.kind for name, change in changes.items() if change is not None and change.low_rank is None}
    if whole:
        more = f" and {len(whole) - SHOWN} more" if len(whole) > SHOWN else ""
        yield (
            f"{expert.name}: changes {', '.join(list(whole)[:SHOWN])}{more} as whole tensors "
            f"({', '.join(sorted(set(whole.values())))}); keep them from the base by parameters.base, or export a "
            "checkpoint"
        )


def placeless(expert: Expert, names: Sequence[str]) -> Iterator[str]:
    """Say which factors of an adapter have no place in any adapter of PEFT, and why.

    Args:
        expert: An adapter, or another expert, which has no factors.
        names: The parameters that are merged.
    """
    if isinstance(expert.weights, Adapted):
        own = expert.weights
        factored = [name for name in own.changed if name in names and (one := own.change(name)) and one.low_rank]
        for name, slot in slots_of(expert.own_module, factored).items():
            if isinstance(slot, str):
                yield f"{name}: {slot}"
    saved = saved_modules(expert.own_module, expert.whole_head)
    for name in expert.whole_head:
        if not is_in(name, saved):
            yield f"{name}: it is part of a head, but its module is not, and PEFT saves whole modules; merge it too"
