"""What an adapter holds, as the merge uses it, in words; and how far it moves each block."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch

from adamerge.experts.adapter_class import TrainedAs
from adamerge.experts.adapter_config import CONFIG, AdapterConfig
from adamerge.experts.adapter_keys import Parts
from adamerge.experts.adapter_reader import AdapterReader
from adamerge.experts.heads import head_names
from adamerge.experts.low_rank import Adapted
from adamerge.experts.name_patterns import several
from adamerge.types import Fact

_SHOWN = 8
"""Largest number of modules that are named."""


def describe_adapter(reader: AdapterReader, weights: Adapted) -> Iterator[str]:
    """Say what the adapter holds as the merge will use it.

    Args:
        reader: Has read the adapter.
        weights: The model with the adapter.
    """
    config, module = reader.config, reader.module
    of_head = head_names(module)  # builds the module once more
    heads = [name for name in (*weights.own, *weights.changed, *reader.whole.unchanged) if name in of_head]
    moved = set(weights.changed) - set(heads)
    whole = [name for name in weights.own if name not in heads]
    touched = {*weights.changed, *weights.own}
    rest = [name for name, _ in module.named_parameters() if name not in touched]
    beside = {name.rpartition(".")[0] for name in touched}
    untouched = [name for name in rest if name.rpartition(".")[0] not in beside]
    parts = [
        f"{_kind(config, reader.keys.modules)} adapter",
        f"rank {_range(sorted(reader.ranks))}",
        f"scale {_range(sorted(reader.scales))}",
        f"changes {len(moved)} tensors ({_leaves(moved)})",
        f"brings the head {several(heads)}" if heads else "brings no head",
        *([f"brings {several(whole)}"] if whole else []),
        f"leaves {len(rest)} as in the base ({_leaves(untouched)})",
    ]
    yield Fact(f"{config.source}: {', '.join(parts)}")
    whole = _computed_whole(reader, weights)
    if whole:
        yield Fact(
            f"{config.source}: {len(whole)} of the tensors that it changes ({_leaves(list(whole))}) have no factors to "
            f"learn on ({', '.join(sorted(set(whole.values())))}): each is computed whole in every step, one at a "
            "time, which takes the time of a complete checkpoint and the memory of one tensor."
        )
    if reader.unseen:
        yield Fact(
            f"{config.source}: a trial of {type(module).__name__} on made-up inputs did not reach "
            f"{several(reader.unseen)}: whether it calls them, without which PEFT trains no factors, is not known."
        )
    if of_head and not heads:
        yield (
            f"{config.source}: the adapter holds no head, though {type(module).__name__} has one "
            f"({several(sorted(of_head))}): the base's is used. If it was trained, it was not saved: name "
            "it in modules_to_save, or set task_type, when training."
        )


def other_class(reader: AdapterReader, kind: TrainedAs) -> Iterator[str]:
    """Say that the adapter's class is of another kind than the base's, or names a part of the base."""
    if reader.part:
        yield Fact(
            f"{reader.config.source}: its names are those of a model without other parts; they are read as those of "
            f"{reader.part} in {type(reader.module).__name__}."
        )
    if kind.other and not kind.within:
        yield (
            f"{kind.other}. All its tensors have a place there; if the weights are not those that it was trained on, "
            "the merge is meaningless."
        )


def _computed_whole(reader: AdapterReader, weights: Adapted) -> dict[str, str]:
    """List the matrices whose change is neither factors nor a tensor in the adapter's file, and what it is."""
    changes = {name: weights.change(name) for name in weights.changed if name not in reader.whole.replaced}
    return {
        name: one.kind
        for name, one in changes.items()
        if one is not None and not one.low_rank and len(weights.shape(name)) > 1
    }


def contradictions(reader: AdapterReader) -> Iterator[str]:
    """Warn of options that say otherwise than the tensors, contradict each other, or are not known."""
    config, source = reader.config, reader.config.source
    bad = [parts.module for parts in reader.keys.modules if len(set(config.alphas(parts.module))) > 1]
    if bad:
        yield (
            f"{source}: patterns of alpha_pattern contradict each other for {', '.join(bad[:3])}. The "
            "first in the file is taken, as PEFT does on loading; in training PEFT may have used another, because it "
            "sorts patterns when it saves. Write one pattern per module."
        )
    if reader.other_ranks:
        module, (said, rank) = next(iter(reader.other_ranks.items()))
        program, too = ("mlx-lm", "") if config.scales_directly else ("PEFT", ", in the scale too")
        yield (
            f"{source}: {CONFIG} says rank {said} for {module}, but its factors have rank {rank}, which counts "
            f"here{too} ({len(reader.other_ranks)} modules). {program} would not load it: check that {CONFIG} is of "
            "this adapter."
        )
    if 0 in reader.scales:
        yield (
            f"{source}: {CONFIG} makes the scale of some factors 0 (lora_alpha, alpha_pattern), so that they change "
            "nothing. Write the one of the training."
        )
    if reader.twice:
        yield (
            f"{source}: the factors of {several(reader.twice)} count twice: PEFT (0.21) adds them twice in training "
            "and merging. If the adapter was trained by other code, its change is too large by one of them."
        )
    if reader.without_bias:
        yield (
            f"{source}: while rows of {several(reader.without_bias)} are trained, PEFT (0.21) leaves out its bias; "
            "PEFT's merge has it again, and so has this one. The answers are not those of the training: measure them."
        )
    if config.unknown:
        yield (
            f"{source}: {CONFIG} has options that are not known here: {several(config.unknown)}. They are not read; if "
            "one of them changes what the factors mean, the merge is wrong."
        )


def squares(weights: Adapted) -> dict[str, float]:
    """Compute ‖ΔW‖² of every changed tensor: of factors without their product, of others one tensor at a time."""
    found: dict[str, float] = {}
    for name in weights.changed:
        change = weights.change(name)
        factors = change.factors() if change is not None else None
        found[name] = factors.square() if factors else _square(weights[name], weights.base[name])
    return found


def by_depth(values: Mapping[str, float], labels: Mapping[str, str]) -> dict[str, float]:
    """Add values of tensors per block, in the order of the labels.

    Example:
        >>> by_depth({"h.0.a": 1.0, "h.0.b": 2.0}, {"h.0.a": "h.0", "h.0.b": "h.0", "h.1.a": "h.1"})
        {'h.0': 3.0, 'h.1': 0.0}
    """
    sums: dict[str, float] = defaultdict(float)
    for name, label in labels.items():
        sums[label] += values.get(name, 0.0)
    return dict(sums)


def _square(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.double() - other.double()).square().sum().item()


def _kind(config: AdapterConfig, modules: Sequence[Parts]) -> str:
    magnitudes = [parts for parts in modules if "magnitude" in parts.names]
    return ("rs" if config.rslora else "") + ("DoRA" if magnitudes else "LoRA")


def _leaves(names: Sequence[str] | set[str]) -> str:
    """List the last modules of names once each."""
    found = dict.fromkeys(name.rpartition(".")[0].rpartition(".")[2] or name for name in sorted(names))
    shown, rest = list(found)[:_SHOWN], len(found) - _SHOWN
    return (", ".join(shown) or "none") + (f" and {rest} more" if rest > 0 else "")


def _range(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
