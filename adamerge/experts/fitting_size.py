"""The size in config.json with which all tensors would fit, found by trying."""

import copy
from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from torch import nn
from transformers import PretrainedConfig

from adamerge.experts.config_file import numbers
from adamerge.experts.skeleton import built

_TRIED = 32
"""Number of sizes that are tried, each on a module of its own."""

_LABELS = "num_labels"
"""The number of labels, which a configuration derives from id2label."""


def fitting_size(config: PretrainedConfig, module: nn.Module, stored: Mapping[str, torch.Size]) -> str:
    """Say which size in a configuration another one should replace, so that all tensors fit; empty if none is found.

    A size is tried where the module's dimension is a multiple of it: heads, or the width of three fused layers.

    Args:
        config: The configuration.
        module: The module that was built from it.
        stored: Shapes of tensors in the files by name in the module.
    """
    described = {name: parameter.shape for name, parameter in module.named_parameters() if name in stored}
    for key, size, other in islice(_others(config, described, stored), _TRIED):
        try:
            tried = built(with_value(config, key, other), type(module).__name__)
        except Exception:  # transformers raises anything on sizes that do not belong together
            continue
        shapes = {name: parameter.shape for name, parameter in tried.named_parameters()}
        if all(shapes.get(name) == stored[name] for name in described):
            where = f"{other} entries in id2label" if key == _LABELS else f"{key}: {other}"
            return f"with {where} in the place of {size} all tensors fit"
    return ""


def _others(
    config: PretrainedConfig, described: Mapping[str, torch.Size], stored: Mapping[str, torch.Size]
) -> Iterator[tuple[str, int, int]]:
    """Yield key, size and another size; keys whose size is that of a wrong dimension come first."""
    pairs = {
        (here, there)
        for name, shape in described.items()
        if len(shape) == len(stored[name])
        for here, there in zip(shape, stored[name], strict=True)
        if here != there
    }
    sizes = dict(numbers({**config.to_dict(), _LABELS: getattr(config, _LABELS, 0)}))
    found = {
        (key, size, size * there // here): size != here
        for key, size in sizes.items()
        for here, there in sorted(pairs)
        if size > 0 and here and here % size == 0 and size * there % here == 0
    }
    yield from sorted(found, key=lambda one: found[one])


def with_value(config: PretrainedConfig, key: str, value: object) -> PretrainedConfig:
    """Copy a configuration and set a value by its dotted key."""
    whole = at = copy.deepcopy(config)
    *path, last = key.split(".")
    for part in path:
        at = getattr(at, part)
    setattr(at, last, value)
    return whole
