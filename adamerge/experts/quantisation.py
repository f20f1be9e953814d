"""Quantised weights: refused in files, and removed from a configuration that says so of files that are not."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PretrainedConfig

from adamerge.experts.name_patterns import several
from adamerge.storage.weights import Header, Weights
from adamerge.types import IncompatibleExpertsError

_NOT_PACKED = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool}
"""dtypes of weights and buffers that are not quantised."""


def without_quantization(source: str, config: PretrainedConfig, tensors: Weights) -> str:
    """Remove a quantisation that config.json has and the files do not, and say so.

    Args:
        source: The checkpoint as the user wrote it.
        config: Its configuration, which is changed.
        tensors: Its tensors.

    Raises:
        IncompatibleExpertsError: The files are quantised.
    """
    packed = [n for n, header in tensors.headers.items() if header.dtype not in _NOT_PACKED]
    if packed:
        raise IncompatibleExpertsError(
            f"{source}: expected floating-point weights, but the checkpoint is quantised (config.json has "
            f"quantization_config, and {several(packed)} are {tensors.headers[packed[0]].dtype}). Use the checkpoint "
            "from before quantisation, or save a dequantised copy."
        )
    delattr(config, "quantization_config")
    return (
        f"{source}: config.json has a quantization_config, but all tensors are floating-point numbers; it is ignored, "
        "and not in the merged config.json."
    )


def quantised(headers: Mapping[str, Header], names: Sequence[str]) -> list[str]:
    """List the names whose dtype is integer or 8-bit float, for which no task vector can be computed."""
    return [name for name in names if not headers[name].dtype.is_floating_point or headers[name].dtype.itemsize == 1]
