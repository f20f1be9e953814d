"""Tensors that an adapter holds whole: heads and modules that were trained, biases, and copies of the base's."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from adamerge.experts.adapter_formulas import replaced
from adamerge.experts.adapter_places import UNTIE, AdapterPlaces
from adamerge.experts.low_rank import Change
from adamerge.storage.weights import Weights

_TRAINED_IN = (torch.bfloat16, torch.float16)
"""dtypes in which a base may have been in memory when a copy of it was saved with more digits."""


class WholeTensors:
    """The tensors that an adapter brings whole.

    Args:
        places: Where an adapter's tensors belong.
        base: The base's tensors under the names of the module.
        tensors: The adapter's tensors.

    Attributes:
        own: Those that the base lacks.
        replaced: The changes of those that replace the base's.
        unchanged: Those that equal the base's.
    """

    def __init__(self, places: AdapterPlaces, base: Weights, tensors: Weights) -> None:
        self._places, self._base, self._tensors = places, base, tensors
        self.own: dict[str, Tensor] = {}
        self.replaced: dict[str, Change] = {}
        self.unchanged: list[str] = []

    def add(self, whole: Mapping[str, Sequence[str]]) -> None:
        """Add parameters that were trained.

        Args:
            whole: Names in the file by the parameter's name.
        """
        for name, (key, *others) in whole.items():
            target, value = self._places.parameter(name), self._tensors[key]
            for other in others:
                if not torch.equal(self._tensors[other], value):
                    self._places.problem(other, f"and {key} have the same place and differ", "Remove one of them")
            if target is None:
                self._places.no_place(key, _module(name))
            elif self._places.stored[target] != value.shape:
                expected = tuple(self._places.stored[target])
                self._places.problem(key, f"has the shape {tuple(value.shape)}, expected {expected}")
            elif self._brought(target, value):
                self.own[target] = value
            elif torch.equal(self._base[target].to(value.dtype), value):
                self.unchanged.append(target)
            else:
                self._places.side(target, name)
                self._replace(key, target, value)

    def _brought(self, target: str, value: Tensor) -> bool:
        """Return whether a tensor is the adapter's own: a head, also for other labels, or running statistics."""
        lacks = target not in self._base or self._base.shape(target) != value.shape
        return lacks or target in self._places.buffers

    def compare(self, copies: Mapping[str, Sequence[str]]) -> None:
        """Refuse another base: the adapter's file has copies of matrices that it was trained on.

        Args:
            copies: Names in the file by the parameter's name.
        """
        for name, key in ((name, key) for name, keys in copies.items() for key in keys):
            target, value = self._places.parameter(name), self._tensors[key]
            if target is None:
                self._places.no_place(key, _module(name))
            elif target in self._base and target not in self.own and not _equal(self._base[target], value):
                self._places.problem(key, f"is the base's {target} as it was in training, and differs from this base's")

    def _replace(self, key: str, target: str, value: Tensor) -> None:
        former = self.replaced.get(target)
        if former and former.dense and not torch.equal(former.dense(value), value):
            self._places.problem(key, f"differs from the other tensor of the tied {target}", UNTIE)
        kind = "a trained bias" if target.endswith("bias") else "a module that was trained whole"
        self.replaced[target] = Change(dense=partial(replaced, value), kind=kind)


def _equal(base: Tensor, value: Tensor) -> bool:
    """Return whether a tensor is a copy of the base's, or of the base's as it was rounded in training."""
    if base.shape != value.shape:
        return False
    return any(torch.equal(base.to(dtype).to(value.dtype), value) for dtype in (value.dtype, *_TRAINED_IN))


def _module(name: str) -> str:
    """Return the path of the module that a tensor without a place is of, by its name."""
    return name.partition(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0]
