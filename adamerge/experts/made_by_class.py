"""Parameters that no file holds because a model's class computes them: sinusoidal positions of Marian, for example."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adamerge.storage.weights import Header, Weights


@dataclass(frozen=True, eq=False)
class Made:
    """A tensor that a class computes; it has the methods of `Conversion`, of no tensor in the file.

    Attributes:
        name: Name in the module.
        value: The tensor.
        path: What its name begins with, if the module is a part of another.
    """

    name: str
    value: Tensor
    path: str = ""

    @property
    def names(self) -> list[str]:
        """No tensor of the file is read."""
        return []

    def headers(self, tensors: Weights) -> dict[str, Header]:
        """Return shape and dtype by name in the module."""
        del tensors
        return {self.path + self.name: Header(self.value.shape, self.value.dtype)}

    def apply(self, read: object) -> dict[str, Tensor]:
        """Return the tensor by name in the module."""
        del read
        return {self.path + self.name: self.value}


def made_by_class(module: nn.Module, missing: Sequence[str]) -> dict[str, Made]:
    """Find the parameters that a file may lack, because the class gives them the same values every time.

    These are the ones whose absence transformers does not report, and which two initialisations, with different random
    numbers and different contents before, fill alike.

    Args:
        module: The module; its parameters are on the meta device.
        missing: Parameters that the file lacks.

    Returns:
        What the class computes, by name.
    """
    silent = [] if not isinstance(module, PreTrainedModel) else sorted(set(missing) - reported(module, missing))
    if not silent or not isinstance(module, PreTrainedModel):
        return {}
    first, second = (_initialised(module, silent, seed) for seed in (0, 1))
    return {name: Made(name, first[name]) for name in silent if torch.equal(first[name], second[name])}


def reported(module: PreTrainedModel, missing: Collection[str], unexpected: Collection[str] = ()) -> set[str]:
    """Return those of a file's missing and unexpected names that transformers tells its users of."""
    report = SimpleNamespace(missing_keys=set(missing), unexpected_keys=set(unexpected))
    module._adjust_missing_and_unexpected_keys(report)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
    return report.missing_keys | report.unexpected_keys


def _initialised(module: PreTrainedModel, names: Sequence[str], seed: int) -> Mapping[str, Tensor]:
    """Return some parameters as `from_pretrained` initialises them where a file lacks them."""
    fresh = copy.deepcopy(module)
    for part in fresh.modules():
        part.__dict__.pop("_is_hf_initialized", None)  # transformers' mark of what needs no initialisation
    for name in names:
        path, _, leaf = name.rpartition(".")
        filled = torch.full(fresh.get_parameter(name).shape, float(seed + 2))  # what is left as it is differs
        setattr(fresh.get_submodule(path), leaf, nn.Parameter(filled, requires_grad=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh.initialize_weights()
    return {name: fresh.get_parameter(name).detach() for name in names}
