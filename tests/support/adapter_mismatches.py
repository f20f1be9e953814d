"""Bases and adapters that do not belong together, or cannot be merged, and words of the message."""

import json
import re
import shutil
import warnings
from functools import partial
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from support.adapters import KINDS, LLAMA, TIED, experts_of, model, of_mlx_mixture, saved, trained

from adamerge.types import ConfigError, IncompatibleExpertsError


def _alone(folder: Path):
    base, adapter, _ = saved(folder, *KINDS["plain"])
    return base, adapter


def _named(folder: Path, **more: object):
    """An adapter that names a base on this machine, and another base."""
    base, adapter = _alone(folder)
    other, file = folder / "other", adapter / "adapter_config.json"
    model(*LLAMA[:2], seed=5, **{**LLAMA[2], **more}).save_pretrained(other)
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))
    return other, adapter


def _cut_off(folder: Path):
    base, adapter = _alone(folder)
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    return base, adapter


def _quantised(folder: Path):
    base, adapter = _alone(folder)
    file, config = base / "model.safetensors", base / "config.json"
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    options = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}}
    config.write_text(json.dumps(options))
    return base, adapter


def _in_subfolder(folder: Path):
    base, adapter = _alone(folder)
    shutil.copytree(adapter, folder / "all/news")
    return base, folder / "all"


def _one_side_of_tied(folder: Path):
    base, adapter, _ = saved(folder, TIED, {"target_modules": ["embed_tokens"]})
    return base, adapter


def _grouped(folder: Path):
    """PEFT's lora_A sees the inputs of all groups, so that what was trained is no weight of the layer."""
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, image_size=32)
    module = transformers.ConvNextForImageClassification(config)
    module.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's that merging is not supported
        trained(module, {"r": 8, "target_modules": ["dwconv"]}).save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def _no_single_experts(folder: Path):
    _, adapter, _ = of_mlx_mixture(folder, "MixtralForCausalLM", {"gate_proj": "w1"}, False)
    model("GptOssForCausalLM").save_pretrained(folder / "other")
    return folder / "other", adapter


MADE = {
    "a file that is cut off": (_cut_off, "adapter_model.safetensors: expected a complete safetensors file"),
    "in subfolders": (_in_subfolder, "found adapters in subfolders .news.. Give one of them: ADAPTER/news"),
    "another base, of other numbers": (
        _named,
        "the adapter was trained on .*, but .* has other numbers there than here",
    ),
    "another base, of another shape": (
        partial(_named, vocab_size=44),
        r"has the shape \(40, 16\) there and \(44, 16\)",
    ),
    "a quantised base": (_quantised, "the checkpoint is quantised.*from before quantisation"),
    "one side of tied embeddings": (_one_side_of_tied, "is tied to .* one side only.*tie_word_embeddings=False"),
    "a grouped convolution": (_grouped, "dwconv.* grouped convolution.*no weight.*Train"),
    "experts of mlx-lm without a file of each": (
        _no_single_experts,
        r"of mlx-lm changes all experts of a mixture.*mlx_lm\.fuse",
    ),
}
"""Bases and adapters that do not belong together, or cannot be merged, and words of the message."""


def refusal_of(base: Path, adapter: Path) -> str:
    """Return the message, with ADAPTER, BASE and FOLDER for the paths."""
    try:
        experts_of(base, a=adapter)
    except (ConfigError, IncompatibleExpertsError) as error:
        message = str(error).replace(str(adapter), "ADAPTER").replace(str(base), "BASE")
        return re.sub(r"cannot be read \(.*?\)", "cannot be read (…)", message.replace(str(base.parent), "FOLDER"))
    raise AssertionError("it was opened")
