"""Quantised weights: refused in files, and removed from a configuration that says so of files that are not."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from transformers import PretrainedConfig

from adamerge.experts.name_patterns import several
from adamerge.storage.weights import Header, Weights
from adamerge.types import IncompatibleExpertsError

_NOT_PACKED = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool}
"""dtypes of weights and buffers that are not quantised."""


def _describes(key: str, value: object) -> bool:
    """Return whether a key is that of transformers, that of compressed-tensors before, or that of MLX."""
    return key in ("quantization_config", "compression_config") or (key == "quantization" and isinstance(value, dict))


def quantisation_keys(settings: Mapping[str, object], place: str = "") -> Iterator[str]:
    """Yield the dotted keys of a configuration and its parts that describe quantised files.

    Example:
        >>> parts = {"text_config": {"quantization_config": {"bits": 4}}, "quantization_config": None}
        >>> list(quantisation_keys(parts | {"quantization": {"bits": 4}}))
        ['text_config.quantization_config', 'quantization']
    """
    for key, value in settings.items():
        if value and _describes(key, value):
            yield place + key
        elif isinstance(value, Mapping):
            yield from quantisation_keys(value, f"{place}{key}.")


def of_merged(settings: Mapping[str, object]) -> dict[str, object]:
    """Return a configuration and its parts without what describes quantised files.

    Example:
        >>> of_merged({"text_config": {"quantization_config": {"bits": 4}, "hidden_size": 8}, "compression_config": {}})
        {'text_config': {'hidden_size': 8}}
    """
    kept = {key: value for key, value in settings.items() if not _describes(key, value)}
    return {key: of_merged(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def without_quantization(source: str, config: PretrainedConfig, keys: Sequence[str], tensors: Weights) -> str:
    """Remove a quantisation that config.json has and the files do not, and say so.

    Args:
        source: The checkpoint as the user wrote it.
        config: Its configuration, which is changed.
        keys: The keys that describe it; see `quantisation_keys`.
        tensors: Its tensors.

    Raises:
        IncompatibleExpertsError: The files are quantised.
    """
    packed = [n for n, header in tensors.headers.items() if header.dtype not in _NOT_PACKED]
    if packed:
        raise IncompatibleExpertsError(
            f"{source}: expected floating-point weights, but the checkpoint is quantised (config.json has "
            f"{', '.join(keys)}, and {several(packed)} are {tensors.headers[packed[0]].dtype}). Use the checkpoint "
            "from before quantisation, or save a dequantised copy."
        )
    for key in keys:
        *path, last = key.split(".")
        part: object = config
        for name in path:
            part = part.get(name) if isinstance(part, dict) else getattr(part, name, None)
        if hasattr(part, last):
            delattr(part, last)
    return (
        f"{source}: config.json has a {', '.join(keys)}, but all tensors are floating-point numbers; it is ignored, "
        "and not in the merged config.json."
    )


def quantised(headers: Mapping[str, Header], names: Sequence[str]) -> list[str]:
    """List the names whose dtype is integer or 8-bit float, for which no task vector can be computed."""
    return [name for name in names if not headers[name].dtype.is_floating_point or headers[name].dtype.itemsize == 1]
