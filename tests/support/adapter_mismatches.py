"""Bases and adapters that do not belong together, or cannot be merged, and words of the message."""

import json
import re
import shutil
import warnings
from functools import partial
from pathlib import Path

import torch
import transformers
from families.table import TOKENS
from safetensors.torch import load_file, save_file
from support.adapters import (
    GPT2,
    IMAGES,
    KINDS,
    LLAMA,
    TIED,
    experts_of,
    model,
    of_mlx,
    of_mlx_mixture,
    saved,
    trained,
)

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


def _one_side_of_tied(target: str, folder: Path):
    base, adapter, _ = saved(folder, TIED, {"target_modules": [target]})
    return base, adapter


def _of_another_class(folder: Path, **options: str):
    """An adapter of a Llama, and GPT-2; with a task in its options, PEFT names no class."""
    _, adapter = _alone(folder)
    file = adapter / "adapter_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), **options, **({"auto_mapping": None} if options else {})})
    )
    model(*GPT2[:2]).save_pretrained(folder / "other")
    return folder / "other", adapter


def _of_mlx_under_other_names(folder: Path):
    """mlx-lm has the layers of GPT-NeoX in `model.h`, transformers in `gpt_neox.layers`."""
    _, adapter, _ = of_mlx(folder, "c_attn", GPT2, backbone="model")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.GPTNeoXConfig(**sizes, vocab_size=40)
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder / "other")
    return folder / "other", adapter


def _convolution_of_mlx(folder: Path):
    """mlx-lm has factors for linear layers and embeddings alone; these would fit the convolution by their shapes."""
    model(*IMAGES[:2]).save_pretrained(folder / "base")
    _, adapter, _ = of_mlx(folder / "mlx", "q_proj")
    path = "vit.embeddings.patch_embeddings.projection"
    tensors = {f"{path}.lora_a": torch.ones(192, 2), f"{path}.lora_b": torch.ones(2, 16)}
    save_file(tensors, adapter / "adapters.safetensors")
    return folder / "base", adapter


def _grouped(folder: Path):
    """PEFT's lora_A sees the inputs of all groups, so that what was trained is no weight of the layer."""
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, image_size=32)
    module = transformers.ConvNextForImageClassification(config)
    module.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's that merging is not supported
        trained(module, {"r": 8, "target_modules": ["dwconv"]}).save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def _out_proj_alone(folder: Path):
    """Factors that are not 0, as no training by PEFT leaves them: it never calls this layer."""
    base, adapter, _ = saved(folder, ("SiglipVisionModel", "", {}), {"target_modules": ["attention.out_proj"]})
    return base, adapter


def _of_a_class(architecture: str, target: str, folder: Path, **options: object):
    """Factors that are not 0 of a layer whose weight the class reads."""
    cls = getattr(transformers, architecture)
    module = cls(cls.config_class(**TOKENS, **options))
    module.save_pretrained(folder / "base")
    trained(module, {"target_modules": [target]}).save_pretrained(folder / "adapter")
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
    "one side of tied embeddings": (
        partial(_one_side_of_tied, "embed_tokens"),
        "model.embed_tokens.weight is tied to lm_head.weight.* one side only.*tie_word_embeddings=False",
    ),
    "the other side of tied embeddings": (
        partial(_one_side_of_tied, "lm_head"),
        "lm_head.weight is tied to model.embed_tokens.weight.* one side only.*tie_word_embeddings=False",
    ),
    "an adapter of another class": (
        _of_another_class,
        r"trained on a LlamaForCausalLM \(llama\), expected .* BASE, a GPT2LMHeadModel \(gpt2\).*Give the base",
    ),
    "an adapter of another class that it does not name": (
        partial(_of_another_class, task_type="CAUSAL_LM", base_model_name_or_path="org/llama"),
        "expected an adapter of a GPT2LMHeadModel.*none of the 4 modules.*q_proj.*names the base org/llama.*Give",
    ),
    "an adapter of mlx-lm under other names": (
        _of_mlx_under_other_names,
        r"expected an adapter of a GPTNeoXForCausalLM.*mlx-lm names its layers otherwise.*mlx_lm\.fuse",
    ),
    "a convolution's factors of mlx-lm": (
        _convolution_of_mlx,
        r"projection\.lora_a is a factor of .*, a Conv2d, for which mlx-lm has none.*mlx_lm\.fuse",
    ),
    "a grouped convolution": (_grouped, "dwconv.* grouped convolution.*no weight.*Train"),
    "the out_proj of MultiheadAttention alone": (
        _out_proj_alone,
        r"head\.attention\.out_proj, whose weight MultiheadAttention reads without calling.*exclude_modules",
    ),
    "a layer whose weight the class reads": (
        partial(_of_a_class, "MambaForCausalLM", "layers.0.mixer.dt_proj"),
        r"mixer\.dt_proj, whose weight MambaMixer reads without calling the layer: PEFT trains without it.*exclude",
    ),
    "a layer whose weight the class reads beside calling it": (
        partial(_of_a_class, "DebertaV2ForMaskedLM", "word_embeddings", legacy=False),
        r"word_embeddings, whose weight DebertaV2LMPredictionHead reads beside calling the layer.*no weight.*exclude",
    ),
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
