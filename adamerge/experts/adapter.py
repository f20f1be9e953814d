"""Open a LoRA adapter over a checkpoint as an expert: what it changes, tensor by tensor, and what it brings itself."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PretrainedConfig

from adamerge.experts.adapter_base import base_notes, check_not_contained
from adamerge.experts.adapter_class import TrainedAs, part_of, trained_as
from adamerge.experts.adapter_config import CONFIG, read_adapter_config
from adamerge.experts.adapter_formats import MLX, PEFT, PICKLED, adapter_tensors, is_adapter
from adamerge.experts.adapter_keys import group_keys
from adamerge.experts.adapter_lacking import lacking, lacking_of_mlx
from adamerge.experts.adapter_numbers import check_numbers, without_effect
from adamerge.experts.adapter_reader import AdapterReader
from adamerge.experts.adapter_summary import contradictions, describe_adapter, other_class
from adamerge.experts.adapter_switch import by_expert
from adamerge.experts.backed import check_backed
from adamerge.experts.checkpoint import Checkpoint, has_adapter, locate, open_checkpoint, read_checkpoint
from adamerge.experts.conversion import Converted
from adamerge.experts.heads import head_names
from adamerge.experts.low_rank import Adapted
from adamerge.experts.match_names import match
from adamerge.experts.name_wrappers import adapter_without_wrappers
from adamerge.experts.skeleton import skeleton
from adamerge.storage.regular_files import read_json
from adamerge.types import ConfigError, IncompatibleExpertsError


def open_expert(
    source: str,
    base: Checkpoint | None,
    *,
    adapter: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Open an expert: a complete checkpoint, an adapter over the base, or an adapter over a complete checkpoint.

    Args:
        source: The directory or hub id; of an adapter over the base, of the adapter (`id/folder` too).
        base: The base; None if it could not be opened, and then adapters are not opened.
        adapter: Directory or hub id of an adapter over `source`. A folder that holds both needs none.
        allow_pickle: Whether pickled weights may be read.
        trust_remote_code: Whether Python code beside the weights may run.

    Raises:
        ConfigError: See `open_checkpoint` and `open_adapter`.
        IncompatibleExpertsError: See there.
    """
    may = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    folder = locate(source, allow_pickle, inside=True)
    if is_adapter(folder) and adapter is not None:
        raise ConfigError(
            f"{source}: an adapter, expected the complete checkpoint that {adapter} is applied to. Name that (key "
            "model), or give each adapter as an expert of its own, with the key model alone."
        )
    if adapter is None and not has_adapter(folder):
        return open_checkpoint(source, inside=True, **may)
    if base is None:
        raise ConfigError(
            f"{adapter or source}: an adapter, which cannot be read without its base. Correct base_model."
        )
    if is_adapter(folder):
        return open_adapter(source, folder, base, allow_pickle=allow_pickle)
    if adapter is None:
        return _beside(source, folder, base, **may)
    place = locate(adapter, allow_pickle, inside=True)
    if not has_adapter(place):
        raise ConfigError(f"{adapter}: expected an adapter (adapter_config.json), found none in {place}.")
    same = folder.samefile(base.folder)
    beneath, pool = (base, None) if same else (open_checkpoint(source, inside=True, **may), base)
    found = open_adapter(adapter, place, beneath, pool=pool, allow_pickle=allow_pickle)
    if is_adapter(place):
        return found
    note = f"{adapter}: the complete weights beside the adapter are not read; it is added to those of {source}."
    return replace(found, notes=(note, *found.notes))


def _beside(source: str, folder: Path, base: Checkpoint, *, allow_pickle: bool, trust_remote_code: bool) -> Checkpoint:
    """Open a complete checkpoint with the adapter beside it, as transformers does."""
    if not any((folder / name).exists() for name in (PEFT, PICKLED, MLX)):
        raise ConfigError(
            f"{source}: expected one checkpoint, but an adapter ({CONFIG}) is beside config.json, without its tensors "
            f"({PEFT}). If the weights contain it already, remove {CONFIG}; otherwise copy its tensors."
        )
    beneath = read_checkpoint(source, folder, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    try:
        found = open_adapter(source, folder, beneath, pool=base, allow_pickle=allow_pickle)
    except IncompatibleExpertsError as error:
        raise IncompatibleExpertsError(
            f"{error} If the weights beside {CONFIG} contain the adapter already, or should be merged without it, "
            f"remove {CONFIG} and its tensors."
        ) from error
    note = (
        f"{source}: adapter_config.json is beside config.json: the expert is the complete checkpoint with the adapter "
        "added to it, as transformers loads the folder. To merge only one of them, put the other elsewhere."
    )
    return replace(found, notes=(note, *found.notes))


def open_adapter(
    source: str, folder: Path, base: Checkpoint, *, pool: Checkpoint | None = None, allow_pickle: bool = False
) -> Checkpoint:
    """Open an adapter as a checkpoint of the model that it was trained as; its tensors are the base's plus its changes.

    Args:
        source: The path or hub id as the user wrote it.
        folder: Folder of its files.
        base: The checkpoint that it is applied to.
        pool: The base of the merge, if it is another one.
        allow_pickle: Whether pickled tensors may be read.

    Returns:
        A checkpoint whose tensors have the names of its class's module, and are dense only when they are read.

    Raises:
        ConfigError: A kind of adapter that is not supported.
        IncompatibleExpertsError: A tensor without a place in the model, a wrong shape, or another base.
    """
    config = read_adapter_config(source, folder)
    tensors, renamed = adapter_without_wrappers(
        source, adapter_tensors(source, folder, allow_pickle), base.tensors.headers
    )
    keys = group_keys(source, tensors.headers)
    check_numbers(source, tensors, keys)
    kind = trained_as(config, base)
    check_backed(base)
    whole = {name: tensors.shape(key) for name, (key, *_) in keys.whole.items()}
    module, settings = _module_of(kind.architecture, base, whole)
    warnings = list(base_notes(config, base, module))
    tensors = by_expert(source, tensors, module)
    keys = group_keys(source, tensors.headers)
    found = match(base, module)
    over = Converted(base.tensors, found.names)
    reader = AdapterReader(config, module, over, tensors, keys, part=part_of(module, kind.part))
    written = cast(dict[str, object], read_json(folder / CONFIG))
    weights = _read(reader, kind, found.missing, written, over_base=pool is None)
    if pool is not None:
        check_not_contained(source, weights, pool, module)
    said = (
        *renamed,
        *contradictions(reader),
        *without_effect(source, tensors, keys),
        *(
            lacking_of_mlx(reader, written)
            if config.scales_directly
            else lacking(reader, weights, written, found.names)
        ),
    )
    notes = (*describe_adapter(reader, weights), *other_class(reader, kind), *warnings, *said)
    own = Checkpoint(source, folder, settings, weights, base.trust_remote_code, notes, adapter=folder, over=base.folder)
    return own if pool is None else replace(own, folder=base.folder, notes=(*base.notes, *notes), beneath=base)


def _read(
    reader: AdapterReader, kind: TrainedAs, missing: Sequence[str], settings: object, *, over_base: bool
) -> Adapted:
    """Read the changes; if they do not fit, a class of another kind than the base's is reported first."""
    try:
        return reader.read(missing, settings, over_base=over_base)
    except IncompatibleExpertsError as error:
        if not kind.other:
            raise
        named = f" ({reader.config.base_model})" if reader.config.base_model else ""
        advice = f"Give the base that it was trained on{named}."
        raise IncompatibleExpertsError(f"{kind.other}. {advice}", *error.problems) from error


def _module_of(
    architecture: str, base: Checkpoint, whole: Mapping[str, torch.Size]
) -> tuple[nn.Module, PretrainedConfig]:
    """Build the module that the adapter was trained as, with as many labels as its head has."""
    settings = copy.deepcopy(base.config)
    settings.architectures = [architecture]
    plain = skeleton(settings, architecture, trust_remote_code=base.trust_remote_code)
    labels = next(_labels(plain, whole), None)
    if labels is None:
        return plain, settings
    settings.num_labels = labels
    return skeleton(settings, architecture, trust_remote_code=base.trust_remote_code), settings


def _labels(plain: nn.Module, whole: Mapping[str, torch.Size]) -> Iterator[int]:
    """Yield the number of labels of a head that has others than the class would have."""
    shapes = {name: parameter.shape for name, parameter in plain.named_parameters()}
    heads = head_names(plain) if any(name in shapes and shapes[name] != shape for name, shape in whole.items()) else ()
    yield from (whole[name][0] for name in heads if name in whole and whole[name] != shapes[name])
