"""A stand-in for the module of models of which only state dicts are known."""

from collections.abc import Collection
from typing import NoReturn

import torch
from torch import nn

from adamerge.storage.weights import Weights
from adamerge.types import ConfigError, IncompatibleExpertsError

_COUNTED = {"running_mean", "running_var"}
"""Statistics of batch normalisation: buffers that look like parameters."""

_INDICES = {torch.int64, torch.bool}
"""Dtypes of buffers; smaller integers are weights of a quantised model."""

REFUSED = (
    "expected a module to run on rows, found state dicts alone, which have no class. Give the base or one expert as an "
    "nn.Module or a path, or use a data-free method, such as average, ties or wudi, without calibration and evaluation."
)


class TensorsAlone(nn.Module):
    """A module that has the tensors of a state dict under their names, and computes nothing."""

    def forward(self, *inputs: object, **more: object) -> NoReturn:
        """Refuse to run.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(REFUSED)


def tensors_alone(name: str, weights: Weights) -> TensorsAlone:
    """Build the stand-in for a state dict, with its parameters on the meta device.

    Integers, and what batch normalisation counts, are buffers; everything else is a parameter.

    Args:
        name: The task, or the base, in errors.
        weights: The state dict.

    Raises:
        IncompatibleExpertsError: No module can have tensors under these names.
    """
    whole = TensorsAlone()
    for path in weights.headers:
        place, _, word = path.rpartition(".")
        try:
            _add(_part(whole, place), word, path, weights)
        except (KeyError, AttributeError) as error:
            raise IncompatibleExpertsError(
                f"{name}: expected names of tensors that a module can have, found {path!r} ({error.args[0]}). Give the "
                "module, or rename the tensor."
            ) from error
    return whole.eval()


def check_prefix(name: str, own: Collection[str], base: Collection[str]) -> None:
    """Refuse state dicts of which only one has a prefix, as a classifier's over those of its bare backbone.

    Args:
        name: The task in errors.
        own: Names of the expert's tensors.
        base: Names of the base's tensors.

    Raises:
        IncompatibleExpertsError: Names the prefix and what to write.

    Example:
        >>> check_prefix("news", ["bert.layer.weight", "head.weight"], ["layer.weight"])
        Traceback (most recent call last):
        adamerge.types.IncompatibleExpertsError: news: expected names of tensors as in the base, but ...
    """
    if not set(own).isdisjoint(base):
        return
    for whose, other, prefix in (("expert", "base", _prefix(own, base)), ("base", "expert", _prefix(base, own))):
        if prefix:
            raise IncompatibleExpertsError(
                f"{name}: expected names of tensors as in the base, but only the {whose}'s have the prefix {prefix!r}. "
                "Give the base or one expert as an nn.Module or a path, whose class relates the names, or put the "
                f"prefix before the {other}'s names: {{{prefix!r} + name: tensor for name, tensor in {other}.items()}}."
            )


def _prefix(names: Collection[str], others: Collection[str]) -> str:
    """Return what the first name that ends with one of the others has before it; empty if no name does."""
    for name in names:
        rest = name
        while "." in rest:
            rest = rest.partition(".")[2]
            if rest in others:
                return name.removesuffix(rest)
    return ""


def _add(part: nn.Module, word: str, path: str, weights: Weights) -> None:
    shape, dtype = weights.headers[path]
    if word in _COUNTED or dtype in _INDICES:
        part.register_buffer(word, weights[path].clone())
    else:
        empty = torch.empty(shape, dtype=dtype, device="meta")
        part.register_parameter(word, nn.Parameter(empty, requires_grad=dtype.is_floating_point))


def _part(whole: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, made where there is none."""
    for word in path.split(".") if path else ():
        if word not in whole._modules:
            whole.add_module(word, nn.Module())
        whole = whole.get_submodule(word)
    return whole
