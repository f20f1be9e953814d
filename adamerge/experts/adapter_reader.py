"""From the tensors of an adapter to changes of a module's parameters; every problem by name."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adamerge.experts.adapter_config import AdapterConfig
from adamerge.experts.adapter_formulas import (
    dora,
    factor_shapes,
    fused_change,
    plus,
    read,
    replaced,
    scaled,
    shifted,
    with_rows,
)
from adamerge.experts.adapter_keys import Part, Parts
from adamerge.experts.low_rank import Change
from adamerge.experts.match_names import renaming, tied_names
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError


class AdapterReader:
    """Turns an adapter's tensors into changes of a module's parameters; collects every problem."""

    def __init__(self, config: AdapterConfig, module: nn.Module, base: Weights, tensors: Weights) -> None:
        self.config, self.module, self.base, self.tensors = config, module, base, tensors
        self.problems: list[str] = []
        self.replaced: dict[str, Change] = {}
        wanted = module.state_dict()
        self._renamed = renaming(config.source, module, wanted)
        self._canonical = {alias: names[0] for names in tied_names(module) for alias in names}
        self._tied = {names[0] for names in tied_names(module) if len(names) > 1}
        self._modules = dict(module.named_modules())

    def check(self, missing: Sequence[str], own: Mapping[str, Tensor]) -> None:
        """Refuse the adapter if anything had no place, or the base lacks what the adapter does not bring."""
        self.problems += [
            f"{self.config.source}: neither base nor adapter has {name} of {type(self.module).__name__}. If it is the "
            "head, it was not saved: name it in modules_to_save when training."
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
                    self._problem(name, "is changed twice by the adapter", "Merge it with PEFT and give the result.")
                found[name] = change
        return found

    def whole(self, whole: Mapping[str, tuple[str, bool]]) -> dict[str, Tensor]:
        """Return the tensors that the adapter brings whole and the base lacks; note those that replace the base's."""
        own: dict[str, Tensor] = {}
        for name, (key, wrapped) in whole.items():
            target = self._parameter(name)
            if target is None:
                self._problem(
                    key, f"has no place in {type(self.module).__name__}", "Give the base that it was trained on."
                )
                continue
            value = self.tensors[key]
            inside = target in self.base and self.base.shape(target) == value.shape
            if wrapped and target.endswith(".weight"):
                self._compare(key, target, value)
            elif inside:
                self.replaced[target] = Change(dense=partial(replaced, value))
            elif self.module.get_parameter(target).shape != value.shape:
                self._shape(key, target, value)
            else:
                own[target] = value
        return own

    def _changes_of(self, parts: Parts) -> Iterator[tuple[str, Change]]:
        names = parts.names
        path = self._path(parts.module)
        if path is None:
            key = next(iter(names.values()))
            self._problem(key, f"has no place in {type(self.module).__name__}", "Give the base that it was trained on.")
            return
        owner = self._modules[path]
        weight = self._canonical.get(f"{path}.weight")
        if "token rows" in names:
            yield from self._token_rows(parts, path)
        elif weight is None:
            yield from self._fused(parts, path)
        elif weight in self._tied:
            self._problem(
                weight, "is tied to other embeddings and has factors on one side only", "Untie and merge it with PEFT."
            )
        elif "embedding A" in names and isinstance(owner, nn.Embedding):
            yield from self._factors(parts, weight, "embedding A", "embedding B", transposed=True)
        elif "A" in names:
            yield from self._factors(parts, weight, "A", "B", transposed=isinstance(owner, Conv1D))
            yield from self._bias(parts, path)

    def _factors(
        self, parts: Parts, weight: str, first: Part, second: Part, *, transposed: bool
    ) -> Iterator[tuple[str, Change]]:
        a, b = parts.names[first], parts.names[second]
        shape = self.base.shape(weight)
        shapes = [self.tensors.shape(key) for key in (a, b)]
        mlx = a.endswith("lora_a")
        rank = shapes[0][1] if mlx else shapes[0][0]
        factors = partial(read, self.tensors, a, b, flipped=transposed != mlx)
        scale = self.config.scale(parts.module, max(rank, 1))
        left, right = factor_shapes(*shapes, flipped=transposed != mlx)
        rows = shape[0]
        if rank == 0 or left != (rows, rank) or right != (rank, shape.numel() // rows):
            self._problem(
                a,
                f"has the shape {tuple(shapes[0])} and its partner {tuple(shapes[1])}, expected factors of {weight} "
                f"{tuple(shape)}",
                "Give the base that it was trained on.",
            )
            return
        low_rank = partial(scaled, factors, scale)
        if "magnitude" not in parts.names:
            yield weight, Change(low_rank=low_rank)
        else:
            magnitude = self.tensors[parts.names["magnitude"]]
            yield weight, Change(dense=partial(dora, low_rank, magnitude, transposed=transposed))

    def _bias(self, parts: Parts, path: str) -> Iterator[tuple[str, Change]]:
        if "B bias" not in parts.names:
            return
        name = f"{path}.bias"
        if name not in self.base:
            self._problem(parts.names["B bias"], f"adds to {name}, which the base lacks", "Merge it with PEFT.")
            return
        rank = self.tensors.shape(parts.names["A"])[0]
        shift = self.tensors[parts.names["B bias"]].float() * self.config.scale(parts.module, rank)
        yield name, Change(dense=partial(shifted, shift))

    def _token_rows(self, parts: Parts, path: str) -> Iterator[tuple[str, Change]]:
        rows = self.config.token_rows.get(path.rpartition(".")[2]) or self.config.token_rows.get("")
        values = self.tensors[parts.names["token rows"]]
        name = self._canonical.get(f"{path}.weight")
        if name is None or rows is None or len(rows) != len(values):
            self._problem(
                parts.names["token rows"],
                f"has {len(values)} rows, expected those of trainable_token_indices ({rows and len(rows)})",
                "Save the adapter again.",
            )
            return
        yield name, Change(dense=partial(with_rows, torch.tensor(rows), values))

    def _fused(self, parts: Parts, path: str) -> Iterator[tuple[str, Change]]:
        """Factors of parameters with three dimensions: (experts, out, in) or (experts, in, out)."""
        if "A" not in parts.names:
            return
        a, b = (self.tensors[parts.names[part]] for part in ("A", "B"))
        targets = {target.rpartition(".")[2] for target in self.config.target_parameters}
        own = {n: p for n, p in self._modules[path].named_parameters(recurse=False) if p.ndim == 3 and n in targets}
        if len(own) > 1:  # the wrapped layer holds the first of the module's parameters
            own = dict([list(own.items())[0 if parts.nested else 1]])
        for name, parameter in own.items():
            change = fused_change(a, b, parameter.shape, bool(getattr(self._modules[path], "is_transposed", False)))
            if change is not None:
                rank = len(a) // parameter.shape[0]
                scale = self.config.scale(f"{parts.module}.{name}", rank)
                yield f"{path}.{name}", Change(dense=partial(plus, change, scale))
                return
        self._problem(parts.names["A"], f"does not fit a parameter of {path}", "Give the base that it was trained on.")

    def _parameter(self, name: str) -> str | None:
        """Find a parameter of the module by its name, today's or one of an older transformers."""
        for candidate in (name, self._renamed(name)):
            if candidate in self._canonical:
                return self._canonical[candidate]
        return None

    def _path(self, path: str) -> str | None:
        """Find a module by its path, today's or one of an older transformers."""
        if path in self._modules:
            return path
        renamed = self._renamed(f"{path}.weight").removesuffix(".weight")
        return renamed if renamed in self._modules else None

    def _compare(self, key: str, target: str, value: Tensor) -> None:
        """Refuse another base: the adapter's file has a copy of the matrix that it was trained on."""
        base = self.base[target] if target in self.base else None
        if base is None or base.shape != value.shape or not torch.equal(base.to(value.dtype), value):
            self._problem(
                key,
                f"is the base's {target} as it was in training, and differs from this base's",
                "Give the base that it was trained on.",
            )

    def _shape(self, key: str, target: str, value: Tensor) -> None:
        expected = tuple(self.module.get_parameter(target).shape)
        self._problem(
            key, f"has the shape {tuple(value.shape)}, expected {expected}", "Give the base that it was trained on."
        )

    def _problem(self, name: str, what: str, way_out: str) -> None:
        self.problems.append(f"{self.config.source}: {name} {what}. {way_out}")
