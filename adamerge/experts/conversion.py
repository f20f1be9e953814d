"""transformers' conversions between the tensors of a file and those of a module, in both directions.

A file may hold other tensors than the module: one per expert of a mixture where the module stacks them, or one matrix
for queries, keys and values. transformers' own rules say which; nothing about them is repeated here.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from typing_extensions import override

from adamerge.experts.made_by_class import Made
from adamerge.storage.digest import FileDigest, FileIdentity, digest_of_json
from adamerge.storage.weights import Header, Renamed, Weights, headers_of


@dataclass(frozen=True, eq=False)
class Conversion:
    """Tensors that transformers computes from other tensors when it loads a model.

    Attributes:
        rule: transformers' rule, without tensors.
        first: Name in the module under which the rule is applied; the rule may make several tensors.
        module: The module that they are for.
        sources: Names in the file by pattern of the rule, in transformers' order.
        path: What the names of computed tensors begin with, if the module is a part of another.
    """

    rule: WeightConverter
    first: str
    module: PreTrainedModel
    sources: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    path: str = ""

    @property
    def names(self) -> list[str]:
        """Names in the file of all tensors that are read."""
        return [name for names in self.sources.values() for name in names]

    def headers(self, tensors: Weights) -> dict[str, Header]:
        """Return shapes and dtypes of what is computed, by name in the module; the rule runs on the meta device."""

        def empty(name: str) -> Tensor:
            shape, dtype = tensors.headers[name]
            return torch.empty(shape, dtype=dtype, device="meta")

        return headers_of(self.apply(empty))

    def named(self, original: Mapping[str, str]) -> "Conversion":
        """Return the same for a file with other names, given the file's own name of each."""
        sources = {pattern: [original[name] for name in names] for pattern, names in self.sources.items()}
        return replace(self, sources=sources)

    def apply(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Compute the module's tensors from the file's.

        Args:
            read: Returns a tensor of the file by name.

        Returns:
            Tensors by name in the module.
        """
        rule = copy.deepcopy(self.rule)
        for pattern, names in self.sources.items():
            for name in names:
                rule.add_tensor(self.first, name, pattern, read(name))  # pyright: ignore[reportArgumentType]
        made = rule.convert(self.first, model=self.module, config=self.module.config)
        return {self.path + name: found[0] if isinstance(found, list) else found for name, found in made.items()}


Origin: TypeAlias = str | Conversion | Made
"""Where a tensor of a module comes from: its name in the file, or how it is computed."""


@dataclass(frozen=True)
class Places:
    """Where transformers puts the tensors of a file.

    Attributes:
        names: Names in the file by name in the module, in transformers' order: it reads the first.
        made: Computed tensors by the name under which they are computed.
        without: Name that transformers looked for by name in the file, where the module has no such tensor.
    """

    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    made: dict[str, Conversion] = field(default_factory=dict[str, Conversion])
    without: dict[str, str] = field(default_factory=dict[str, str])

    def named(self, original: Mapping[str, str]) -> "Places":
        """Return the same for a file with other names, given the file's own name of each."""
        names = {name: [original[disk] for disk in several] for name, several in self.names.items()}
        made = {name: conversion.named(original) for name, conversion in self.made.items()}
        return Places(names, made, {original[name]: target for name, target in self.without.items()})


def places(module: nn.Module, names: Iterable[str]) -> Places:
    """Find the place of each tensor of a file, as `from_pretrained` does; no tensor is read.

    Args:
        module: A transformers model, or a plain module, whose names are those of its state dict.
        names: Names of all tensors of the file.

    Returns:
        The places.
    """
    wanted, found = module.state_dict(), Places()
    if not isinstance(module, PreTrainedModel):
        for name in names:
            (found.names[name].append(name) if name in wanted else found.without.update({name: name}))
        return found
    rules = get_model_conversion_mapping(module)
    renamings, converters = _divided(rules)
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, module.base_model_prefix, wanted)
        if target not in wanted and name in wanted:
            target, pattern = rename_source_key(name, [], [], module.base_model_prefix, wanted)
        if target not in wanted:
            found.without[name] = target
        elif pattern is None:
            found.names[target].append(name)
        else:
            made = found.made.setdefault(target, Conversion(by_pattern[pattern], target, module))
            made.sources[pattern].append(name)
    return found


def _divided(rules: Sequence[object]) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    """Divide transformers' rules into those that only rename and those that compute."""
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return renamings, [rule for rule in rules if isinstance(rule, WeightConverter)]


@dataclass(frozen=True, eq=False)
class Written:
    """Tensors of a module that are written together, because a file holds them as other tensors.

    Attributes:
        names: Names in the module.
        module: The module.
        name: Name in the file, if the tensor is written as it is.
    """

    names: tuple[str, ...]
    module: nn.Module
    name: str | None

    def apply(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute a file's tensors from the module's, by name in the file."""
        if self.name is not None:
            return {self.name: tensors[self.names[0]]}
        assert isinstance(self.module, PreTrainedModel)
        return {name: t.contiguous() for name, t in revert_weight_conversion(self.module, dict(tensors)).items()}


def written(module: nn.Module, names: Sequence[str]) -> list[Written]:
    """List what `save_pretrained` writes for some of a module's tensors, in the order of the names.

    Names are today's: a file in old names (LayerNorm.gamma) is not continued, because other programs do not know them.

    Args:
        module: A transformers model; the names of a plain module are kept.
        names: Names in the module.

    Returns:
        What is written, tensor by tensor or, where several become one, together.
    """
    if not isinstance(module, PreTrainedModel):
        return [Written((name,), module, name) for name in names]
    rules = [r for r in get_model_conversion_mapping(module, add_legacy=False) if not isinstance(r, PrefixChange)]
    renamings, converters = _divided([rule.reverse_transform() for rule in reversed(rules)])
    groups: dict[str, list[str]] = {}
    computed: set[str] = set()
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, reverse=True)
        groups.setdefault(target, []).append(name)
        computed |= {target} if pattern is not None else set()
    order = {name: number for number, name in enumerate(names)}
    units = [Written(tuple(own), module, None if to in computed else to) for to, own in groups.items()]
    return sorted(units, key=lambda unit: order[unit.names[0]])


class Converted(Weights):
    """Tensors of a file under a module's names; those that the file lacks are computed when they are read.

    Args:
        source: Tensors by name in the file.
        names: Name in the file, or how it is computed, by name in the module.
    """

    def __init__(self, source: Weights, names: Mapping[str, "Origin"]) -> None:
        self._source, self._names = source, names
        self._plain = Renamed(source, {name: disk for name, disk in names.items() if isinstance(disk, str)})

    @cached_property
    def _made(self) -> dict[str, Header]:
        """Headers of the computed tensors."""
        conversions = {id(c): c for c in self._names.values() if not isinstance(c, str)}.values()
        return {name: header for c in conversions for name, header in c.headers(self._source).items()}

    @property
    @override
    def headers(self) -> Mapping[str, Header]:
        return self._all_headers

    @cached_property
    def _all_headers(self) -> Mapping[str, Header]:
        plain = self._plain.headers
        return {name: plain[name] if name in plain else self._made[name] for name in self._names}

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._source.files

    @override
    def place(self, name: str) -> tuple[str, int]:
        disk = self._names[name]
        first = disk if isinstance(disk, str) else next(iter(disk.names), None)
        return ("", 0) if first is None else self._source.place(first)

    @override
    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        return self._plain.pieces(name, size) if name in self._plain else super().pieces(name, size)

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        names = [(n, disk if isinstance(disk, str) else sorted(disk.names)) for n, disk in sorted(self._names.items())]
        return digest_of_json([names, self._source.digest(file)])

    def __getitem__(self, name: str) -> Tensor:
        disk = self._names[name]
        return self._source[disk] if isinstance(disk, str) else disk.apply(self._source.__getitem__)[name]
