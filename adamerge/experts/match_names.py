"""Names of tensors in a file or a state dict → names of a module's parameters, as transformers loads them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.conversion import Conversion, Converted, Origin, Places
from adamerge.experts.made_by_class import made_by_class, reported
from adamerge.experts.name_patterns import several
from adamerge.experts.name_wrappers import places_without_wrappers
from adamerge.experts.tied import possible_ties, says_tied, tied_names
from adamerge.storage.weights import Weights
from adamerge.types import Fact, IncompatibleExpertsError


@dataclass(frozen=True)
class Match:
    """Pairs of names on disk and names in a module.

    Attributes:
        names: Name on disk, or computation, of each parameter and persistent buffer that was found.
        missing: Parameters of the module that the checkpoint lacks.
        unexpected: Tensors on disk that the module has no place for.
        apart: Names of tied parameters whose values in the checkpoint differ from those under the first name.
        passed_over: Tensors on disk that transformers does not load, and does not report.
        notes: What was read otherwise than the names suggest.
    """

    names: Mapping[str, Origin]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    apart: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def match(checkpoint: Checkpoint, module: nn.Module) -> Match:
    """Pair a checkpoint's names with a module's; see `match_tensors`."""
    return match_tensors(checkpoint.source, checkpoint.tensors, module)


def match_tensors(source: str, tensors: Weights, module: nn.Module) -> Match:
    """Pair names of tensors with a module's, as transformers does when it loads one into the other.

    A prefix that only one of them has is added or removed, transformers' own renamings and conversions are applied, and
    a tied parameter is found under any of its names. Tensors that transformers passes over are passed over.

    Args:
        source: Name of the checkpoint or task in errors.
        tensors: Tensors by name as they were saved.
        module: The module that they should fit.

    Returns:
        The pairs, and the names without a counterpart.

    Raises:
        IncompatibleExpertsError: One parameter is stored under two names with different values, or transformers' rule
            cannot compute a parameter from the tensors in the file.
    """
    found, wrapped = places_without_wrappers(module, tuple(tensors.headers))
    what = type(module).__name__
    notes = [f"{source}: {line}" for line in wrapped]
    notes += _stored_twice(source, tensors, found, what)
    placed: dict[str, Origin] = {name: disk[0] for name, disk in found.names.items()}
    placed |= _computed(source, tensors, found)
    names: dict[str, Origin] = {}
    missing: list[str] = []
    apart: list[str] = []
    for aliases in tied_names(module):
        present = [alias for alias in aliases if alias in placed]
        apart += _apart(Converted(tensors, {alias: placed[alias] for alias in present}), present)
        if present:
            names[aliases[0]] = placed[present[0]]
        else:
            missing.append(aliases[0])
    made = made_by_class(module, missing)
    names |= made
    notes += [Fact(f"{source}: {several(list(made))} are not in the file; {what} computes them.")] if made else []
    wanted = module.state_dict()
    names |= {name: placed[name] for name, _ in module.named_buffers() if name in wanted and name in placed}
    unexpected, passed_over = _without_place(module, found)
    if passed_over:
        notes.append(f"{source}: transformers does not load {several(passed_over)} into a {what}, so nor does a merge.")
    return Match(names, tuple(n for n in missing if n not in made), unexpected, tuple(apart), passed_over, tuple(notes))


def fill_tied(source: str, found: Match, module: nn.Module) -> Match:
    """Read parameters that a checkpoint lacks from those to which its configuration can tie them.

    transformers does so where config.json ties them, and initialises them at random otherwise.

    Args:
        source: Name of the checkpoint in notes.
        found: The pairs that were found.
        module: The module of the checkpoint's own class.

    Returns:
        The pairs, with notes of what config.json does not say.
    """
    names, notes = dict(found.names), list(found.notes)
    for aliases in possible_ties(module) if found.missing else ():
        present = [alias for alias in aliases if alias in found.names]
        for name in set(aliases) & set(found.missing) if present else ():
            names[name] = found.names[present[0]]
            notes += [] if says_tied(module) else [
                f"{source}: the file lacks {name} although config.json says tie_word_embeddings: false; it is read as "
                f"tied to {present[0]} (transformers would initialise it at random)."
            ]  # fmt: skip
    return replace(found, names=names, missing=tuple(n for n in found.missing if n not in names), notes=tuple(notes))


def _stored_twice(source: str, tensors: Weights, found: Places, what: str) -> list[str]:
    """Check that parameters stored under several names, of which transformers reads the first, have equal values.

    Returns:
        A note if there are such parameters.
    """
    twice = {name: disk for name, disk in found.names.items() if len(disk) > 1 or name in found.made}
    different = [(name, disk) for name, disk in twice.items() if name in found.made or not _equal(tensors, disk)]
    if different:
        name, disk = different[0]
        first, *others = [*(found.made[name].names[:1] if name in found.made else ()), *disk]
        more = f" ({len(different) - 1} more parameters are stored so.)" if len(different) > 1 else ""
        raise IncompatibleExpertsError(
            f"{source}: {first} and {', '.join(others)} are one parameter of {what}, {name}, but different tensors "
            f"here; transformers reads the first. Remove what is out of date from the file.{more}"
        )
    if not twice:
        return []
    names = several([" = ".join(disk) for disk in twice.values()])
    return [f"{source}: parameters are stored twice, under two names with equal values: {names}."]


def _apart(tensors: Weights, names: Sequence[str]) -> list[str]:
    """List the names under which other values are stored than under the first."""
    return [name for name in names[1:] if not _equal(tensors, (names[0], name))]


def _equal(tensors: Weights, names: Sequence[str]) -> bool:
    """Return whether several tensors have one header and equal values."""
    headers = [tensors.headers[name] for name in names]
    same = all(header == headers[0] for header in headers)
    return same and all(torch.equal(tensors[names[0]], tensors[name]) for name in names[1:])


def _computed(source: str, tensors: Weights, found: Places) -> dict[str, Conversion]:
    """Check that transformers' rules can compute what they should, on the meta device; list all that they compute."""
    computed: dict[str, Conversion] = {}
    for first, conversion in found.made.items():
        try:
            computed |= dict.fromkeys(conversion.headers(tensors), conversion)
        except Exception as error:  # a rule raises any exception on tensors that it was not made for
            counts = " and ".join(f"{len(names)} tensors {pattern}" for pattern, names in conversion.sources.items())
            raise IncompatibleExpertsError(
                f"{source}: transformers computes {first} from {counts}, and cannot: {error}. Expected one tensor of "
                "each kind per expert or layer, of equal shapes. Copy or download the file again."
            ) from error
    return computed


def _without_place(module: nn.Module, found: Places) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide the tensors that have no place into those that transformers reports, and those that it passes over."""
    left = set(found.without.values())
    if isinstance(module, PreTrainedModel):
        left = reported(module, (), left)
    left -= {name for name, _ in module.named_buffers()}  # not persistent, so computed and never loaded
    ways: dict[bool, list[str]] = {True: [], False: []}
    for name, target in found.without.items():
        ways[target in left].append(name)
    return tuple(ways[True]), tuple(ways[False])


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
