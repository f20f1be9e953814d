"""From the tensors of an adapter to changes of a module's parameters; every problem by name."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from adamerge.experts.adapter_config import AdapterConfig
from adamerge.experts.adapter_formulas import (
    Layout,
    alike,
    dora,
    factor_shapes,
    fused,
    fused_layout,
    layout_of,
    outputs_of,
    read,
    shifted,
)
from adamerge.experts.adapter_keys import Keys, Part, Parts
from adamerge.experts.adapter_no_weight import no_weight, read_elsewhere
from adamerge.experts.adapter_numbers import moves
from adamerge.experts.adapter_parts import FusedParts
from adamerge.experts.adapter_places import OTHER_BASE, UNTIE, AdapterPlaces
from adamerge.experts.adapter_rows import TokenRows
from adamerge.experts.adapter_switch import FUSE
from adamerge.experts.adapter_whole import WholeTensors
from adamerge.experts.low_rank import Adapted, Change, LowRank
from adamerge.experts.name_patterns import several
from adamerge.experts.random_copy import unnumbered
from adamerge.experts.read_elsewhere import reads_of
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError


class AdapterReader:
    """Turns an adapter's tensors into changes of a module's parameters; collects every problem.

    Args:
        config: The adapter's options.
        module: The module that it was trained as, of today's transformers.
        base: The base's tensors under the names of the module.
        tensors: The adapter's tensors.
        keys: What these are.
        part: Path of the part of the module that the adapter's names may be of.

    Attributes:
        whole: The tensors that the adapter brings whole.
        ranks: Of all factors.
        scales: Of all factors.
        other_ranks: Rank in the options and in the tensors, by module, where they differ.
        twice: Modules whose factors PEFT adds twice.
        without_bias: Layers with trained rows that PEFT computes without their bias.
        paths: Modules that have factors.
        unseen: Those whose weights a trial pass of the class has not read.
    """

    def __init__(
        self, config: AdapterConfig, module: nn.Module, base: Weights, tensors: Weights, keys: Keys, *, part: str = ""
    ) -> None:
        self.config, self.module, self.base, self.tensors, self.keys = config, module, base, tensors, keys
        self.ranks: set[int] = set()
        self.scales: set[float] = set()
        self.other_ranks: dict[str, tuple[int, int]] = {}
        self.twice, self.unseen = list[str](), list[str]()
        self.paths: set[str] = set()
        names = [*(f"{parts.module}.weight" for parts in keys.modules), *keys.whole, *keys.copies]
        self._places = AdapterPlaces(config.source, module, names, mlx=config.scales_directly, part=part)
        self.whole = WholeTensors(self._places, base, tensors)
        self._parts = FusedParts(module, base, self._places)
        self._rows = TokenRows(config, self._places, base, tensors)
        self.without_bias = self._rows.without_bias

    @property
    def part(self) -> str:
        """The part of the module, if the adapter's names are of it; else empty."""
        return self._places.part if self._places.of_part else ""

    def has(self, path: str) -> bool:
        """Return whether the class has a module that an adapter may name so."""
        return self._places.has(path)

    def read(self, missing: Sequence[str], settings: object, *, over_base: bool) -> Adapted:
        """Return the base with the adapter.

        Args:
            missing: Parameters that the base lacks.
            settings: What else the tensors depend on, for their digest.
            over_base: Whether the base is that of the merge.

        Raises:
            IncompatibleExpertsError: Anything has no place, does not fit, or is of another base.
        """
        self._check_names()
        self.whole.add(self.keys.whole)
        self.whole.compare(self.keys.copies)
        changes = self._changes()
        own = self.whole.own
        self._places.check([name for name in missing if name not in own], ties=self.config.ties)
        files = tuple(self.tensors.files)
        return Adapted(self.base, {**changes, **self.whole.replaced}, own, files, settings, over_base=over_base)

    def _check_names(self) -> None:
        """Refuse an adapter of which the class has no module."""
        paths = [parts.module for parts in self.keys.modules]
        if paths and not any(self._places.has(one.module) or self._parts.home(one) for one in self.keys.modules):
            named = f"; the adapter names the base {self.config.base_model}" if self.config.base_model else ""
            raise IncompatibleExpertsError(
                f"{self.config.source}: expected an adapter of a {type(self.module).__name__}, found one of another "
                f"class: none of the {len(paths)} modules that it changes ({several(paths)}) is in this class{named}. "
                f"{self._places.other_base()}."
            )

    def _changes(self) -> dict[str, Change]:
        """Return the change of every parameter that has factors, magnitudes, trained rows or a bias of factors."""
        found: dict[str, Change] = {}
        for parts in self.keys.modules:
            for name, change in self._changes_of(parts):
                if name in found and self._places.tied(name) and alike(found[name], change):
                    continue
                if name in found or name in self.whole.replaced or name in self.whole.own:
                    way_out = UNTIE if self._places.tied(name) else "Merge it with PEFT and give the result"
                    self._problem(name, "is changed twice by the adapter", way_out)
                found[name] = change
        return {**found, **dict(self._parts.changes())}

    def _changes_of(self, parts: Parts) -> Iterator[tuple[str, Change]]:
        path = self._places.path(parts.module)
        if path is None:
            self._part_of_fused(parts)
            return
        self.paths |= {path} if {"A", "embedding A"} & parts.names.keys() else set()
        owner, names = self._places.modules[path], parts.names
        own = f"{path}.in_proj_weight" if isinstance(owner, nn.MultiheadAttention) else f"{path}.weight"
        weight = self._places.parameter(own)
        if "token rows" in names:
            yield from self._rows.changes(parts, path, weight)
        elif problem := no_weight(parts, path, owner):
            self._problem(parts.first, *problem)
        elif weight is None or parts.depth or ("A" in names and self._targeted(own, self.module.get_parameter(own))):
            yield from self._fused(parts, path)
        elif problem := self._read_elsewhere(parts, own):
            self._problem(parts.first, *problem)
        elif weight not in self.base:
            self._places.lacking(parts.first, weight)
        elif (layout := layout_of(owner, mlx=parts.mlx)) is None:
            self._problem(
                parts.first, f"is a factor of {path}, a {type(owner).__name__}, for which mlx-lm has none", FUSE
            )
        else:
            self._places.side(weight, own)
            shape = self.base.shape(weight)
            change = self._factors(parts, weight, shape, layout, outputs=outputs_of(owner, layout))
            if change is not None:
                yield weight, change
                yield from self._bias(parts, path)

    def _factors(
        self, parts: Parts, weight: str, shape: torch.Size, layout: Layout, *, outputs: int = 0
    ) -> Change | None:
        keys: tuple[Part, Part] = ("embedding A", "embedding B") if "embedding A" in parts.names else ("A", "B")
        a, b = (parts.names[key] for key in keys)
        first, second = self.tensors.shape(a), self.tensors.shape(b)
        left, right = factor_shapes(first, second, layout)
        rank, rows = left[1], shape[0]
        if rank == 0 or left != (rows, rank) or right != (rank, shape.numel() // rows):
            what = "rank 0" if rank == 0 else f"shape {tuple(first)} and its partner {b} {tuple(second)}"
            way_out = OTHER_BASE if rank else "Save or copy the adapter again"
            self._problem(a, f"has the {what}, expected factors of {weight} {tuple(shape)}", way_out)
            return None
        times = 2 if self._merged_twice(parts) else 1
        low_rank = partial(read, self.tensors, a, b, times * self._scale(parts.module, rank), layout)
        if "magnitude" in parts.names:
            return self._dora(parts, weight, shape, low_rank, outputs=outputs)
        if self.config.dora:
            self._problem(
                a, "is of a DoRA adapter (use_dora), but has no magnitude beside it", "Save or copy the adapter again"
            )
        return Change(low_rank=low_rank)

    def _read_elsewhere(self, parts: Parts, name: str) -> tuple[str, str] | None:
        """Say why factors of a weight were not in training where the model computes with it; None if they were."""
        if parts.mlx or (self._attention(parts) and parts.of_outer):
            return None
        reads, bias = reads_of(self.module), parts.names.get("B bias")
        reader = "MultiheadAttention" if self._attention(parts) else reads.reader(name)
        if reader is None:
            self.unseen += [] if reads.reached(name) else [parts.module]
        elif moves(self.tensors, parts) or (bias is not None and bool(self.tensors[bias].any())):
            return read_elsewhere(parts, reader, called=unnumbered(name) in reads.called)
        return None

    def _merged_twice(self, parts: Parts) -> bool:
        """Return whether PEFT adds factors twice, in training and when it merges: of attention's out_proj."""
        twice = self._attention(parts) and parts.of_outer
        self.twice += [parts.module] if twice else []
        return twice

    def _attention(self, parts: Parts) -> bool:
        """Return whether a layer is inside nn.MultiheadAttention."""
        path = self._places.path(parts.module.rpartition(".")[0])
        return path is not None and isinstance(self._places.modules[path], nn.MultiheadAttention)

    def _dora(
        self, parts: Parts, weight: str, shape: torch.Size, low_rank: Callable[[], LowRank], *, outputs: int
    ) -> Change | None:
        key = parts.names["magnitude"]
        magnitude = self.tensors[key]
        if magnitude.numel() != shape[outputs]:
            self._problem(
                key, f"has {magnitude.numel()} magnitudes, expected {shape[outputs]} for {weight} {tuple(shape)}"
            )
            return None
        return Change(dense=partial(dora, low_rank, magnitude, outputs=outputs), kind="DoRA")

    def _bias(self, parts: Parts, path: str) -> Iterator[tuple[str, Change]]:
        if "B bias" not in parts.names:
            return
        name, key = f"{path}.bias", parts.names["B bias"]
        values = self.tensors[key]
        if name not in self.base:
            self._problem(
                key, f"adds to {name}, which the base lacks", "Train without lora_bias: this model cannot hold it"
            )
        elif values.shape != self.base.shape(name):
            self._problem(key, f"has the shape {tuple(values.shape)}, expected {tuple(self.base.shape(name))}")
        else:
            shift = values.float() * self.config.scale(parts.module, self.tensors.shape(parts.names["A"])[0])
            trained = self.whole.replaced.pop(name, Change()).dense  # the layer's own bias may be trained beside it
            yield name, Change(dense=partial(shifted, shift, trained), kind="a bias of factors (lora_bias)")

    def _fused(self, parts: Parts, path: str) -> Iterator[tuple[str, Change]]:
        """Return the factors of targeted parameters: (experts, out, in), (experts, in, out), or a matrix."""
        parameters = self._places.modules[path].named_parameters(recurse=False)
        own = [name for name, p in parameters if self._targeted(f"{path}.{name}", p)]
        transposed = bool(getattr(self._places.modules[path], "is_transposed", False))
        candidates = own[len(own) - 1 - parts.depth :][:1] if len(own) > parts.depth else []  # the first is innermost
        for name in candidates if "A" in parts.names else []:
            target = f"{path}.{name}"
            weight = self._places.parameter(target)
            if weight is None or weight not in self.base:
                self._places.lacking(parts.first, target)
                return
            factors = self._of_parameter(parts, target, self.base.shape(weight), transposed)
            if factors is None:
                break
            if problem := self._read_elsewhere(parts, target):
                self._problem(parts.first, *problem)
                return
            self._places.side(weight, target)
            yield weight, Change(low_rank=factors)
            return
        self._problem(
            parts.first,
            f"does not fit a parameter of {path} that target_parameters names "
            f"({', '.join(self.config.target_parameters) or 'none'})",
        )

    def _of_parameter(
        self, parts: Parts, target: str, shape: torch.Size, transposed: bool
    ) -> Callable[[], LowRank] | None:
        """Find how factors make a parameter of two or three dimensions; None if they do not fit."""
        a, b = parts.names["A"], parts.names["B"]
        first, second = self.tensors.shape(a), self.tensors.shape(b)
        count = shape[0] if len(shape) == 3 else 1
        layout = fused_layout(first, second, torch.Size([count, *shape[-2:]]), transposed and len(shape) == 3)
        if layout is None:
            return None
        scale = self._scale(f"{parts.module}.{target.rpartition('.')[2]}", first[0] // count)
        if len(shape) == 2:  # of a matrix, factors are those of a linear layer, whatever its module says of experts
            return partial(read, self.tensors, a, b, scale, "B A") if layout == "(E, out, in)" else None
        return partial(fused, self.tensors, a, b, scale, count, layout)

    def _targeted(self, name: str, parameter: Tensor) -> bool:
        """Return whether target_parameters names a parameter, by PEFT's rule."""
        targets = self.config.target_parameters
        return parameter.ndim in (2, 3) and any(f".{name}".endswith(f".{target}") for target in targets)

    def _part_of_fused(self, parts: Parts) -> None:
        """Keep the change of a part that today's module holds in a larger tensor."""
        home = self._parts.home(parts)
        if home is None:
            self._places.no_place(parts.first, parts.module)
            return
        change = self._factors(parts, home.name, home.shape, "(A B)ᵀ" if parts.mlx else "B A")
        if change is not None:
            home.put(change)

    def _scale(self, module: str, rank: int) -> float:
        scale, said = self.config.scale(module, rank), self.config.rank(module)
        if said not in (None, rank):
            self.other_ranks[module] = (said or 0, rank)
        self.ranks.add(rank)
        self.scales.add(round(scale, 4))
        return scale

    def _problem(self, name: str, what: str, way_out: str = OTHER_BASE) -> None:
        self._places.problem(name, what, way_out)
