"""Grouping by rank component: what it needs, and what has a single component."""

from collections.abc import Mapping, Sequence

from adamerge.calibration.closed_form import ClosedForm
from adamerge.experts.experts import Experts
from adamerge.experts.low_rank import Adapted
from adamerge.optim import Descent
from adamerge.runs.config import MergeConfig
from adamerge.types import ConfigError

COMPONENT = "component"


def ranks(experts: Experts, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the rank of each parameter's factors by task; tasks without factors of it are absent.

    Args:
        experts: Base and experts.
        names: Parameters to merge.
    """
    return {name: {task: rank for task, w in experts.weights.items() if (rank := _rank(w, name))} for name in names}


def components(found: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the number of components per parameter: the largest rank, and 1 where no expert has factors.

    Example:
        >>> components({"w": {"news": 4, "mail": 8}, "b": {}})
        {'w': 8, 'b': 1}
    """
    return {name: max(own.values(), default=1) for name, own in found.items()}


def check_components(config: MergeConfig, experts: Experts, names: Sequence[str]) -> None:
    """Check that a grouping by component has components, which task vectors keep.

    Raises:
        ConfigError: Names the key to change.
    """
    for problem in lacking_factors(config).values():
        raise ConfigError(problem)
    if config.grouping == COMPONENT and not any(ranks(experts, names).values()):
        raise ConfigError(
            "grouping: component expected at least one LoRA adapter with factors, found none among the experts. Set "
            "grouping: tensor."
        )


def lacking_factors(config: MergeConfig) -> dict[str, str]:
    """Collect the settings with which a grouping by component would lack the factors of task vectors, by key."""
    if config.grouping != COMPONENT:
        return {}
    way_out = "or grouping: tensor"
    found = {
        key: f"grouping: component needs the factors of adapters as they are, found {key}: {_named(value)}, which "
        f"makes other task vectors of them. Set {key}: null, {way_out}."
        for key, value in (("task_vectors", config.task_vectors), ("centre", config.centre))
        if value is not None
    }
    if isinstance(config.start, ClosedForm):
        found["init"] = f"grouping: component cannot start from init: closed_form. Set init to a number, {way_out}."
    if isinstance(config.optimizer, Descent) and config.optimizer.uses_cosines:
        found["optimizer"] = (
            "grouping: component has no cosines with whole experts, by which this optimizer selects. Choose "
            f"another optimizer or its selection by gradient, {way_out}."
        )
    return found


def _named(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


def component_notes(config: MergeConfig, experts: Experts, names: Sequence[str]) -> list[str]:
    """Say which task vectors have no factors, and so one component per tensor."""
    if config.grouping != COMPONENT:
        return []
    found = ranks(experts, names)
    counts = {
        task: sum(_moves(weights, name) and task not in found[name] for name in names)
        for task, weights in experts.weights.items()
    }
    return [
        f"note: grouping: component: {count} of the tensors that {task} changes have no factors, so each has one "
        "component, the first"
        for task, count in counts.items()
        if count
    ]


def _rank(weights: object, name: str) -> int:
    change = weights.change(name) if isinstance(weights, Adapted) else None
    factors = change.factors() if change is not None else None
    return 0 if factors is None else factors.left.shape[-1]


def _moves(weights: object, name: str) -> bool:
    return not isinstance(weights, Adapted) or not weights.over_base or weights.change(name) is not None
