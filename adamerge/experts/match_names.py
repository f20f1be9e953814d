"""Names of tensors in a file or a state dict → names of a module's parameters, as transformers loads them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from adamerge.experts.checkpoint import Checkpoint
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError


@dataclass(frozen=True)
class Match:
    """Pairs of names on disk and names in a module.

    Attributes:
        names: Name on disk of each parameter and persistent buffer of the module that was found.
        missing: Parameters of the module that the checkpoint lacks.
        unexpected: Tensors on disk that the module has no place for.
    """

    names: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def match(checkpoint: Checkpoint, module: nn.Module) -> Match:
    """Pair a checkpoint's names with a module's; see `match_tensors`."""
    return match_tensors(checkpoint.source, checkpoint.tensors, module)


def match_tensors(source: str, tensors: Weights, module: nn.Module) -> Match:
    """Pair names of tensors with a module's, as transformers does when it loads one into the other.

    A prefix that only one of them has is added or removed, transformers' own renamings are applied, and a tied
    parameter is found under any of its names. If several of its names are stored, their values are compared.

    Args:
        source: Name of the checkpoint or task in errors.
        tensors: Tensors by name as they were saved.
        module: The module that they should fit.

    Returns:
        The pairs, and the names without a counterpart.

    Raises:
        IncompatibleExpertsError: transformers would fuse or split tensors when it loads them, so no file contains the
            module's tensors; or a tied parameter is stored twice with different values.
    """
    wanted = module.state_dict()
    renamed = renaming(source, module, wanted)
    found = {renamed(name): name for name in tensors.headers}
    names: dict[str, str] = {}
    missing: list[str] = []
    for aliases in tied_names(module):
        present = [found.pop(alias) for alias in aliases if alias in found]
        _check_tied(source, tensors, present, type(module).__name__)
        if present:
            names[aliases[0]] = present[0]
        else:
            missing.append(aliases[0])
    buffers = dict(module.named_buffers())
    names.update({name: found.pop(name) for name in wanted if name in found and name in buffers})
    ignored = [re.compile(p) for p in getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()]
    unexpected = (
        name
        for target, name in found.items()
        if target not in buffers and not any(p.search(name) for p in ignored) and not name.endswith(".position_ids")
    )
    return Match(names, tuple(missing), tuple(unexpected))


def tied_names(module: nn.Module) -> list[tuple[str, ...]]:
    """List the names of each parameter of a module: several if parameters are tied; the first is canonical.

    Args:
        module: The module.

    Returns:
        The names of each parameter.

    Example:
        >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        >>> b.weight = a.weight
        >>> tied_names(nn.Sequential(a, b))
        [('0.weight', '1.weight')]
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(aliases) for aliases in names.values()]


def _check_tied(source: str, tensors: Weights, present: Sequence[str], what: str) -> None:
    """Check that a tied parameter stored under several names has equal values."""
    for other in present[1:]:
        first = present[0]
        if tensors.headers[first] != tensors.headers[other] or not torch.equal(tensors[first], tensors[other]):
            raise IncompatibleExpertsError(
                f"{source}: {first} and {other} are one tied parameter of {what}, but two different tensors here. If "
                "they should be two, untie them (tie_word_embeddings: false in config.json of the base and of every "
                f"expert); otherwise remove {other}."
            )


def renaming(source: str, module: nn.Module, wanted: dict[str, Tensor]) -> Callable[[str], str]:
    """Return transformers' renaming of names on disk to names of the module."""
    if not isinstance(module, PreTrainedModel):
        return lambda name: name
    conversions = get_model_conversion_mapping(module)
    converters = [rule for rule in conversions if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in conversions if isinstance(rule, WeightRenaming)]

    def renamed(name: str) -> str:
        if name in wanted:
            return name
        target, converted = rename_source_key(name, renamings, converters, module.base_model_prefix, wanted)
        if converted is not None and target in wanted:
            raise IncompatibleExpertsError(
                f"{source}: transformers fuses or splits {name} when it loads a {type(module).__name__} (into "
                f"{target}); such checkpoints cannot be merged from their files. Give the loaded modules in Python "
                "instead."
            )
        return target

    return renamed
