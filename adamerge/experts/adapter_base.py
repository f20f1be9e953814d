"""Whether an adapter was trained on the base that it is applied to: a difference that can be proven is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn

from adamerge.experts.adapter_config import AdapterConfig
from adamerge.experts.checkpoint import Checkpoint, read_checkpoint
from adamerge.experts.conversion import Converted
from adamerge.experts.low_rank import Adapted
from adamerge.experts.match_names import match
from adamerge.experts.quantisation import quantisation_keys
from adamerge.storage.file_names import at_home, last_part
from adamerge.storage.regular_files import is_folder, settings_of
from adamerge.storage.weights import Weights
from adamerge.types import ConfigError, IncompatibleExpertsError

_QUANTISED = re.compile(
    r"[-_.](unsloth[-_.])?(bnb|[2-8][-_]?bits?|u?int[2-8]|nf4|(nv|mx)?fp[468]|gptq|awq|hqq|aqlm|eetq|gguf|exl[23]"
    r"|w[2-8]a(8|16)|autoround|quantized|i?q[2-8](_[a-z0-9]+)*)(?![a-z0-9])"
)
"""What names of quantised copies add to that of the model."""

_SAMPLE = 64
"""Numbers of each tensor that are compared before all are."""

_COMPARED: WeakKeyDictionary[Checkpoint, dict[tuple[Path, type[nn.Module]], str | None]] = WeakKeyDictionary()
"""Differences of bases from checkpoints that adapters name, by their folder and the class of the model."""


def base_notes(config: AdapterConfig, base: Checkpoint, module: nn.Module) -> Iterator[str]:
    """Compare the base that an adapter names with the one that it is applied to.

    Args:
        config: The adapter's options.
        base: The checkpoint that it is applied to.
        module: The module of the adapter's class.

    Yields:
        Warnings: another name, or a quantised copy.

    Raises:
        IncompatibleExpertsError: The named base is on this machine, and has other weights.
    """
    found = _on_this_machine(config)
    named, here = found or Path(config.base_model), found is not None
    if not config.base_model or (here and base.own_folder.exists() and named.samefile(base.own_folder)):
        return
    if (here and _says_quantised(named)) or _QUANTISED.search(_name(config.base_model)):
        yield (
            f"{config.source}: the adapter was trained on a quantised base ({config.base_model}); it is merged over "
            f"the full-precision base {base.source}. If that is not the same model, the merge is meaningless."
        )
        return
    if here and (named / "config.json").exists():
        difference = _difference(named, base, module)
        if difference:
            raise IncompatibleExpertsError(
                f"{config.source}: the adapter was trained on {config.base_model}, expected {base.source}, but "
                f"{difference}. Give the base that it was trained on; or, to merge both over {base.source}, "
                f"{{model: {config.base_model}, adapter: {config.source}}}."
            )
        if difference is not None:
            return
    names = {_name(config.base_model), _name(base.source), _name(str(base.config._name_or_path))}
    if _name(config.base_model) not in {_name(base.source), _name(str(base.config._name_or_path))} and len(names) > 1:
        yield (
            f"{config.source}: the adapter names the base {config.base_model}, this base is {base.source}. If "
            "they are not the same weights, the merge is meaningless."
        )


def _on_this_machine(config: AdapterConfig) -> Path | None:
    """Find the folder of the base that an adapter names: a folder, or what the hub's cache has of it."""
    named = at_home(config.base_model)
    if is_folder(named):
        return named
    name, _, revision = config.base_model.partition("@")
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision or config.revision)
    except HFValidationError:  # no id on the hub
        return None
    return Path(found).parent if isinstance(found, str) else None


def check_not_contained(source: str, weights: Adapted, base: Checkpoint, module: nn.Module) -> None:
    """Refuse an adapter that the weights below it contain already: ⟨W − base, BA⟩ / ‖BA‖² is near 1, and not 0.

    Args:
        source: Name of the expert in messages.
        weights: The checkpoint with the adapter.
        base: The base of the merge.
        module: The module of the adapter's class.

    Raises:
        IncompatibleExpertsError: They contain it.
    """
    original = Converted(base.tensors, match(base, module).names)
    inner = square = 0.0
    for name in weights.changed:
        change = weights.change(name)
        if change is None or change.low_rank is None or name not in original:
            continue
        shape = weights.shape(name)
        if original.shape(name) == shape:
            moved = change.low_rank().dense(shape)
            inner += ((weights.base[name].float() - original[name].float()) * moved).sum().item()
            square += moved.square().sum().item()
    if square and inner / square > 0.5:
        raise IncompatibleExpertsError(
            f"{source}: expected weights without the adapter, but they contain it already: their difference from the "
            f"base {base.source} holds {inner / square:.2f} times the adapter's change, and it would be added twice, "
            "as transformers does when it loads such a folder. Give the weights without the adapter, or the adapter "
            "alone."
        )


def _says_quantised(named: Path) -> bool:
    return any(quantisation_keys(settings_of(named / "config.json")))


def _difference(named: Path, base: Checkpoint, module: nn.Module) -> str | None:
    """Describe the first difference between two checkpoints, once for all adapters of one class that name it.

    Returns:
        The difference; empty if there is none, None if the named one cannot be read, so that nothing is known.
    """
    known = _COMPARED.setdefault(base, {})
    key = named.resolve(), type(module)
    if key not in known:
        known[key] = _compared(named, base, module)
    return known[key]


def _compared(named: Path, base: Checkpoint, module: nn.Module) -> str | None:
    """Compare shapes and numbers, some of every tensor first."""
    try:
        own = read_checkpoint(str(named), named, allow_pickle=False, trust_remote_code=base.trust_remote_code)
        names = [match(one, module).names for one in (own, base)]
    except (ConfigError, IncompatibleExpertsError):  # what cannot be read proves nothing
        return None
    plain = [{name: disk for name, disk in found.items() if isinstance(disk, str)} for found in names]
    mine, theirs = Converted(own.tensors, plain[0]), Converted(base.tensors, plain[1])
    both = [name for name in mine.headers if name in theirs]
    for name in both:
        if mine.shape(name) != theirs.shape(name):
            return f"{name} has the shape {tuple(mine.shape(name))} there and {tuple(theirs.shape(name))} here"
    other = (name for some in (True, False) for name in both if not _alike(name, mine, theirs, some=some))
    return next((f"{name} has other numbers there than here" for name in other), "")


def _alike(name: str, one: Weights, other: Weights, *, some: bool) -> bool:
    """Compare some or all numbers of a tensor in both checkpoints, in the dtype with fewer digits."""
    dtype = min((one.headers[name].dtype, other.headers[name].dtype), key=lambda dtype: dtype.itemsize)
    first, second = (_sample(source[name]) if some else source[name] for source in (one, other))
    return torch.equal(first.to(dtype), second.to(dtype))


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLE)]


def _name(source: str) -> str:
    return last_part(source).lower()
