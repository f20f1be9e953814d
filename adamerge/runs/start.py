"""Start coefficients (G, K) from mergekit's key `parameters: {weight: …}` of each model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from adamerge.calibration.closed_form import ClosedForm
from adamerge.merging.grouping import Grouping, block_wise
from adamerge.runs.config import MergeConfig
from adamerge.runs.earlier_run import EarlierRun
from adamerge.runs.model_config import FilteredWeight
from adamerge.runs.warm_start import start_from, warm_notes
from adamerge.transforms import Ties
from adamerge.types import Coefficients, ConfigError

Weight: TypeAlias = float | list[float] | list[FilteredWeight] | None


def start_of(config: MergeConfig, grouping: Grouping) -> float | ClosedForm | Coefficients:
    """Find the start of a configuration: a number, a closed form, or a table (G, K) if columns have their own.

    What is beside the experts starts at 0.

    Args:
        config: Configuration with the models' weights.
        grouping: Grouping of the parameters, in the module's order.

    Raises:
        ConfigError: One group has two starts, or the weights cannot have mergekit's meaning here.
    """
    weights = {model.name: model.parameters.weight for model in config.models}
    if all(weight is None for weight in weights.values()):
        if isinstance(config.init, EarlierRun):
            return start_from(config, grouping)
        if not config.models_beside or not config.start or isinstance(config.start, ClosedForm):
            return config.start
        weights = dict.fromkeys(weights)
    else:
        check_weights(config)
    assert not isinstance(config.start, ClosedForm)
    columns = [start_column(task, weight, grouping, config.start) for task, weight in weights.items()]
    table = torch.tensor(columns).T.contiguous()  # (G, K)
    table = _normalised(table) if config.init == "average" else table
    return torch.cat([table, table.new_zeros(len(table), len(config.models_beside))], 1)


def start_in_words(config: MergeConfig) -> str:
    """Say where the coefficients start, without paths, which tell of a machine and not of a merge."""
    if any(model.parameters.weight is not None for model in config.models):
        return "the models' own weights"
    if isinstance(config.init, EarlierRun):
        run = Path(config.init.path).name
        return f"the coefficients of an earlier run ({run}); what is new starts at {config.start:g}"
    return "least squares per layer" if isinstance(config.start, ClosedForm) else f"{config.start:g}"


def check_weights(config: MergeConfig) -> None:
    """Check that the models' weights have the same meaning as in mergekit.

    Raises:
        ConfigError: The start is computed in closed form, or the method does not multiply each expert's task vector by
            a number.
    """
    if all(model.parameters.weight is None for model in config.models):
        return
    if isinstance(config.start, ClosedForm):
        raise ConfigError("init: closed_form computes the start that models.parameters.weight also sets; remove one.")
    if isinstance(config.init, EarlierRun):
        raise ConfigError("init: an earlier run sets the start that models.parameters.weight also sets; remove one.")
    if config.task_vectors is not None and config.columns != config.names:
        raise ConfigError(
            f"task_vectors: {type(config.task_vectors).__name__} makes one task vector of all experts, so no "
            "expert has its own weight; remove models.parameters.weight."
        )
    if isinstance(config.task_vectors, Ties):
        raise ConfigError(
            "task_vectors: mergekit's ties uses weights to elect signs and divides by the sum of those that agree; "
            "Ties does not. Remove models.parameters.weight and set init."
        )


def weight_notes(config: MergeConfig, names: Sequence[str]) -> list[str]:
    """List filters of weights that do not apply, and how the meaning of weights differs from mergekit's.

    Args:
        config: Configuration with the models' weights.
        names: Parameters that are merged.
    """
    notes = warm_notes(config, names) if isinstance(config.init, EarlierRun) else []
    notes += [note for model in config.models for note in _idle_filters(model.name, model.parameters.weight, names)]
    notes += [
        note for model in config.models for note in _unmatched(model.name, model.parameters.weight, config, names)
    ]
    if any(_has_gradient(model.parameters.weight) for model in config.models):
        notes.append(
            "note: a list of weights runs from the first layer to the last; parameters after the last layer (final "
            "norm, lm_head) get its last number; mergekit takes the first"
        )
    if config.init == "average" and any(model.parameters.weight is not None for model in config.models):
        notes.append("note: weights are divided by their sum, as by mergekit's linear")
    return notes


def _idle_filters(task: str, weight: Weight, names: Sequence[str]) -> list[str]:
    """Say which filters give no parameter a start: none matches, or all that match have an earlier one."""
    filters = _filters(weight)
    first = [next((i for i, own in enumerate(filters) if own.matches(name)), None) for name in names]
    return [
        f"note: models: {task}: parameters.weight: {_reason(own, names)}; its value, {own.value}, is not used"
        for i, own in enumerate(filters)
        if i not in first
    ]


def _unmatched(task: str, weight: Weight, config: MergeConfig, names: Sequence[str]) -> list[str]:
    """Say where parameters start that no filter matches."""
    filters = _filters(weight)
    left = [name for name in names if not any(own.matches(name) for own in filters)] if filters else []
    if not left or isinstance(config.start, ClosedForm):
        return []
    start = f"init: {config.init}" if config.init == config.start else f"init: {config.init}, which is {config.start:g}"
    return [
        f"note: models: {task}: parameters.weight: {len(left)} of {len(names)} parameters, such as {left[0]}, match no "
        f"filter; they start from {start}. An entry without filter sets another start"
    ]


def _reason(own: FilteredWeight, names: Sequence[str]) -> str:
    if any(own.matches(name) for name in names):
        which = "the entry without filter" if own.filter is None else f"filter {own.filter!r}"
        return f"every parameter that {which} matches is matched by an earlier entry"
    return f"filter {own.filter!r} is part of no merged parameter's name, such as {names[0]}"


def start_column(task: str, weight: Weight, grouping: Grouping, default: float) -> list[float]:
    """Compute one expert's start coefficient per group.

    Args:
        task: Name of the expert, for messages.
        weight: Weight as written in the configuration.
        grouping: Grouping of the parameters, in the module's order.
        default: Start of parameters without a weight.

    Raises:
        ConfigError: Parameters of one group have different starts.

    Example:
        >>> from adamerge.merging.grouping import tensor_wise
        >>> start_column("news", [0.0, 1.0], tensor_wise(["emb", "h.0.w", "h.1.w", "h.2.w", "norm"]), 0.3)
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    depths = relative_depths([*grouping.rows])
    column: list[float] = []
    for group, names in grouping.members().items():
        starts = {weight_of(name, weight, depths[name], default) for name in names}
        if len(starts) > 1:
            raise ConfigError(
                f"models: {task}: parameters.weight gives parameters of {group} {len(starts)} starts between "
                f"{min(starts):g} and {max(starts):g}, but they share a coefficient; set grouping: tensor."
            )
        column.append(starts.pop())
    return column


def weight_of(name: str, weight: Weight, depth: float, default: float) -> float:
    """Compute one parameter's start coefficient.

    Args:
        name: Name of the parameter.
        weight: A number, numbers over depth, or a list of {filter, value} of which the first match counts.
        depth: Position of the parameter, from 0 (first layer) to 1 (last layer).
        default: Start if no weight applies.

    Example:
        >>> weight_of("h.0.attn.w", [FilteredWeight(0.3, "attn"), FilteredWeight(0.5)], 0.0, 1.0)
        0.3
    """
    if weight is None or weight == []:
        return default
    if not isinstance(weight, list):
        return weight
    numbers = [number for number in weight if not isinstance(number, FilteredWeight)]
    if numbers:
        return _interpolated(numbers, depth)
    first = next((own for own in _filters(weight) if own.matches(name)), None)
    return default if first is None else weight_of(name, first.value, depth, default)


def relative_depths(names: Sequence[str]) -> dict[str, float]:
    """Compute each parameter's position between the first layer (0) and the last layer (1).

    Parameters before the first layer are at 0, later ones outside layers at 1; a single layer is at 1.

    Example:
        >>> relative_depths(["emb", "h.0.w", "h.1.w", "norm"])
        {'emb': 0.0, 'h.0.w': 0.0, 'h.1.w': 1.0, 'norm': 1.0}
    """
    layers = {name: block for block, own in block_wise(names).members().items() for name in own if _is_layer(block)}
    last: dict[str, int] = {}
    for block in layers.values():
        stack, _, index = block.rpartition(".")
        last[stack] = max(last.get(stack, 0), int(index))
    depths: dict[str, float] = {}
    outside = 0.0
    for name in names:
        stack, _, index = layers.get(name, "").rpartition(".")
        depths[name] = int(index) / last[stack] if index and last[stack] else 1.0 if index else outside
        outside = 1.0 if index else outside
    return depths


def _interpolated(numbers: Sequence[float], depth: float) -> float:
    """Interpolate linearly between numbers that are spread evenly over depth, as mergekit's gradients do."""
    place = depth * (len(numbers) - 1)
    low = int(place)
    high = min(low + 1, len(numbers) - 1)
    share = place - low
    return (1 - share) * numbers[low] + share * numbers[high]


def _normalised(table: Coefficients) -> Coefficients:
    """Divide each group's weights by their sum, as mergekit's linear does."""
    total = table.sum(1, keepdim=True)
    if (total == 0).any():
        raise ConfigError(
            "models: expected weights with a sum other than 0 per group, found sum 0; change parameters.weight of a "
            "model, or use method: task_arithmetic, which does not divide by the sum."
        )
    return table / total


def _filters(weight: Weight) -> list[FilteredWeight]:
    return [own for own in weight if isinstance(own, FilteredWeight)] if isinstance(weight, list) else []


def _has_gradient(weight: Weight) -> bool:
    if not isinstance(weight, list):
        return False
    return any(isinstance(own.value, list) if isinstance(own, FilteredWeight) else True for own in weight)


def _is_layer(block: str) -> bool:
    return block.rpartition(".")[2].isdigit()
