"""Checkpoints as plain transformers loads them."""

import torch
import transformers
from safetensors.torch import load_file


def load(architecture, place, dtype=torch.float32):
    model, info = getattr(transformers, architecture).from_pretrained(place, dtype=dtype, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.state_dict()


def names(folder):
    """Names of all tensors in a folder's files."""
    return {name for file in folder.glob("*.safetensors") for name in load_file(file)}
