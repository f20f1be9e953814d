"""From the tensors of an adapter to changes of a module's parameters; every problem by name."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from adamerge.experts.adapter_config import AdapterConfig
from adamerge.experts.adapter_conversion import Converted, conversion_of
from adamerge.experts.adapter_formulas import (
    Layout,
    dora,
    factor_shapes,
    fused,
    fused_layout,
    layout_of,
    plus,
    read,
    replaced,
    shifted,
    with_rows,
)
from adamerge.experts.adapter_keys import Part, Parts
from adamerge.experts.conversion import Conversion, places
from adamerge.experts.low_rank import Change, LowRank
from adamerge.experts.match_names import tied_names
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError

OTHER_BASE = "Give the base that it was trained on"
UNTIE = "Load the base with tie_word_embeddings=False, merge the adapter with PEFT, and give the complete model"


class AdapterReader:
    """Turns an adapter's tensors into changes of a module's parameters; collects every problem.

    Args:
        config: The adapter's options.
        module: The module that it was trained as, of today's transformers.
        base: The base's tensors under the names of the module.
        tensors: The adapter's tensors.
        names: Names of weights and other parameters in the adapter, as its transformers knew them.
    """

    def __init__(
        self, config: AdapterConfig, module: nn.Module, base: Weights, tensors: Weights, names: Iterable[str]
    ) -> None:
        self.config, self.module, self.base, self.tensors = config, module, base, tensors
        self.problems: list[str] = []
        self.replaced: dict[str, Change] = {}
        self.ranks: set[int] = set()
        self.scales: set[float] = set()
        groups = tied_names(module)
        self._canonical = {alias: aliases[0] for aliases in groups for alias in aliases}
        self._aliases = {aliases[0]: set(aliases) for aliases in groups if len(aliases) > 1}
        self._sides: dict[str, set[str]] = {}
        self._modules = dict(module.named_modules())
        found = places(module, names)
        self._homes: dict[str, str] = {disk: name for name, several in found.names.items() for disk in several}
        self._made = {disk: conversion for conversion in found.made.values() for disk in conversion.names}
        self._converted: dict[str, Converted] = {}

    def check(self, missing: Sequence[str], own: Mapping[str, Tensor]) -> None:
        """Refuse the adapter if anything had no place, or the base lacks what the adapter does not bring."""
        for weight, sides in self._sides.items():
            if sides != self._aliases[weight] and not self.config.ties:
                self._problem(
                    weight,
                    f"is tied to {', '.join(sorted(self._aliases[weight] - sides))}, and the adapter changes one side "
                    "only, so that the trained model is none with tied embeddings",
                    UNTIE,
                )
        self.problems += [
            f"{self.config.source}: neither base nor adapter has {name} of {type(self.module).__name__}. If it is the "
            "head, it was not saved: name it in modules_to_save, or set task_type, when training."
            for name in missing
            if name not in own
        ]
        if self.problems:
            raise IncompatibleExpertsError("\n".join(self.problems))

    def changes(self, modules: Sequence[Parts]) -> dict[str, Change]:
        """Return the change of every parameter that has factors, magnitudes, trained rows or a bias of factors."""
        found: dict[str, Change] = {}
        for parts in modules:
            for name, change in self._changes_of(parts):
                if name in found:
                    self._problem(name, "is changed twice by the adapter", "Merge it with PEFT and give the result")
                found[name] = change
        return {**found, **dict(self._fused_changes())}

    def whole(self, whole: Mapping[str, tuple[str, bool]]) -> dict[str, Tensor]:
        """Return the tensors that the adapter brings whole and the base lacks; note those that replace the base's."""
        own: dict[str, Tensor] = {}
        for name, (key, wrapped) in whole.items():
            target = self._parameter(name)
            if target is None:
                self._no_place(key)
                continue
            value = self.tensors[key]
            if wrapped and target.endswith(".weight"):
                self._compare(key, target, value)
            elif self.module.get_parameter(target).shape != value.shape:
                self._shape(key, target, value)
            elif target in self.base:
                self._side(target, name)
                self._replace(key, target, value)
            else:
                own[target] = value
        return own

    def _replace(self, key: str, target: str, value: Tensor) -> None:
        former = self.replaced.get(target)
        if former and former.dense and not torch.equal(former.dense(value), value):
            self._problem(
                key,
                f"differs from the other tensor of the tied {target}",
                UNTIE,
            )
        self.replaced[target] = Change(dense=partial(replaced, value))

    def _changes_of(self, parts: Parts) -> Iterator[tuple[str, Change]]:
        path = self._path(parts.module)
        if path is None:
            self._part_of_fused(parts)
            return
        owner, names = self._modules[path], parts.names
        own = f"{path}.in_proj_weight" if isinstance(owner, nn.MultiheadAttention) else f"{path}.weight"
        weight = self._canonical.get(own)
        if "token rows" in names:
            yield from self._token_rows(parts, weight)
        elif weight is None or parts.depth:
            yield from self._fused(parts, path)
        elif "embedding A" in names and not isinstance(owner, nn.Embedding):
            self._problem(parts.first, f"is a factor of an embedding, but {path} is a {type(owner).__name__}")
        else:
            self._side(weight, own)
            change = self._factors(parts, weight, self.base.shape(weight), layout_of(owner, mlx=parts.mlx))
            if change is not None:
                yield weight, change
            yield from self._bias(parts, path)

    def _factors(self, parts: Parts, weight: str, shape: torch.Size, layout: Layout) -> Change | None:
        keys: tuple[Part, Part] = ("embedding A", "embedding B") if "embedding A" in parts.names else ("A", "B")
        a, b = (parts.names[key] for key in keys)
        shapes = self.tensors.shape(a), self.tensors.shape(b)
        left, right = factor_shapes(*shapes, layout)
        rank, rows = left[1], shape[0]
        if rank == 0 or left != (rows, rank) or right != (rank, shape.numel() // rows):
            what = "rank 0" if rank == 0 else f"shape {tuple(shapes[0])} and its partner {b} {tuple(shapes[1])}"
            self._problem(a, f"has the {what}, expected factors of {weight} {tuple(shape)}")
            return None
        low_rank = partial(read, self.tensors, a, b, self._scale(parts.module, rank), layout)
        if "magnitude" in parts.names:
            return self._dora(parts, weight, shape, low_rank, outputs=1 if layout in ("(B A)ᵀ",) else 0)
        if self.config.dora:
            self._problem(
                a, "is of a DoRA adapter (use_dora), but has no magnitude beside it", "Save or copy the adapter again"
            )
        return Change(low_rank=low_rank)

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
        return Change(dense=partial(dora, low_rank, magnitude, outputs=outputs))

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
            rank = self.tensors.shape(parts.names["A"])[0]
            yield name, Change(dense=partial(shifted, values.float() * self.config.scale(parts.module, rank)))

    def _token_rows(self, parts: Parts, weight: str | None) -> Iterator[tuple[str, Change]]:
        rows = self.config.rows_of(parts.module)
        key = parts.names["token rows"]
        values = self.tensors[key]
        if weight is None or rows is None or len(rows) != len(values):
            self._problem(
                key,
                f"has {len(values)} rows, expected those of trainable_token_indices ({rows and len(rows)})",
                "Save the adapter again",
            )
        elif values.shape[1:] != self.base.shape(weight)[1:] or max(rows, default=0) >= self.base.shape(weight)[0]:
            self._problem(
                key,
                f"has {tuple(values.shape)} numbers for rows up to {max(rows, default=0)}, but {weight} is "
                f"{tuple(self.base.shape(weight))}",
            )
        else:
            yield weight, Change(dense=partial(with_rows, torch.tensor(rows), values))

    def _fused(self, parts: Parts, path: str) -> Iterator[tuple[str, Change]]:
        """Factors of targeted parameters: (experts, out, in), (experts, in, out), or a matrix."""
        parameters = self._modules[path].named_parameters(recurse=False)
        own = [name for name, p in parameters if self._targeted(f"{path}.{name}", p)]
        transposed = bool(getattr(self._modules[path], "is_transposed", False))
        candidates = own[len(own) - 1 - parts.depth :][:1] if len(own) > parts.depth else []  # the first is innermost
        for name in candidates if "A" in parts.names else []:
            target = f"{path}.{name}"
            shape = self.base.shape(target)
            a, b = parts.names["A"], parts.names["B"]
            stacked = torch.Size([1, *shape]) if len(shape) == 2 else shape
            layout = fused_layout(self.tensors.shape(a), self.tensors.shape(b), stacked, transposed)
            if layout is None:
                break
            rank = self.tensors.shape(a)[0] // stacked[0]
            scale = self._scale(f"{parts.module}.{name}", rank)
            factors = partial(fused, self.tensors, a, b, scale, stacked[0], layout)
            yield target, Change(dense=partial(plus, factors), blocks=factors if len(shape) == 3 else None)
            return
        self._problem(
            parts.first,
            f"does not fit a parameter of {path} that target_parameters names "
            f"({', '.join(self.config.target_parameters) or 'none'})",
        )

    def _targeted(self, name: str, parameter: Tensor) -> bool:
        """Return whether target_parameters names a parameter, by PEFT's rule."""
        targets = self.config.target_parameters
        return parameter.ndim in (2, 3) and any(f".{name}".endswith(f".{target}") for target in targets)

    def _part_of_fused(self, parts: Parts) -> None:
        """Keep the change of a part that today's module holds in a larger tensor."""
        conversion = self._made.get(f"{parts.module}.weight")
        one = self._converted_of(conversion) if conversion is not None else None
        part = one.part(parts.module) if one is not None else None
        if one is None or part is None or "A" not in parts.names or "B bias" in parts.names:
            self._no_place(parts.first)
            return
        change = self._factors(parts, part, one.shapes[part], "B A")
        if change is not None:
            one.changes[part] = change

    def _converted_of(self, conversion: Conversion) -> Converted:
        if conversion.first not in self._converted:
            shapes = {name: header.shape for name, header in self.base.headers.items()}
            self._converted[conversion.first] = conversion_of(self.module, conversion, shapes)
        return self._converted[conversion.first]

    def _fused_changes(self) -> Iterator[tuple[str, Change]]:
        for one in self._converted.values():
            for name in one.names:
                yield name, Change(dense=partial(one.expert_of, name, self.base))

    def _scale(self, module: str, rank: int) -> float:
        scale = self.config.scale(module, rank)
        self.ranks.add(rank)
        self.scales.add(round(scale, 4))
        return scale

    def _parameter(self, name: str) -> str | None:
        """Find a parameter of the module by its name, today's or one of an older transformers."""
        return self._canonical.get(name) or self._canonical.get(self._homes.get(name, ""))

    def _path(self, path: str) -> str | None:
        """Find a module by its path, today's or one of an older transformers."""
        if path in self._modules:
            return path
        renamed = self._homes.get(f"{path}.weight", "").removesuffix(".weight")
        return renamed if renamed and renamed in self._modules else None

    def _side(self, weight: str, alias: str) -> None:
        """Note which name of a tied parameter the adapter changes."""
        if weight in self._aliases:
            self._sides.setdefault(weight, set()).add(alias)

    def _compare(self, key: str, target: str, value: Tensor) -> None:
        """Refuse another base: the adapter's file has a copy of the matrix that it was trained on."""
        base = self.base[target] if target in self.base else None
        if base is None or base.shape != value.shape or not torch.equal(base.to(value.dtype), value):
            self._problem(key, f"is the base's {target} as it was in training, and differs from this base's")

    def _shape(self, key: str, target: str, value: Tensor) -> None:
        expected = tuple(self.module.get_parameter(target).shape)
        self._problem(key, f"has the shape {tuple(value.shape)}, expected {expected}")

    def _no_place(self, key: str) -> None:
        self._problem(key, f"has no place in {type(self.module).__name__}")

    def _problem(self, name: str, what: str, way_out: str = OTHER_BASE) -> None:
        self.problems.append(f"{self.config.source}: {name} {what}. {way_out}.")
