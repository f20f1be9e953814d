"""Every kind of adapter that is read: how one is made, and how far its one-hot merge is from the truth."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from support.adapters import (
    FUSED,
    GPT2,
    KINDS,
    LLAMA,
    TIED,
    TRANSFORMERS_4,
    experts_of,
    in_old_names,
    logits,
    of_mlx,
    of_mlx_mixture,
    one_hot_logits,
    saved,
)

MLX = {
    "mlx-lm, linear": (LLAMA, "q_proj|down_proj", {}),
    "mlx-lm, DoRA": (LLAMA, "q_proj|down_proj", {"dora": True}),
    "mlx-lm, embeddings": (LLAMA, "embed_tokens", {}),
    "mlx-lm, DoRA of embeddings": (LLAMA, "embed_tokens", {"dora": True}),
    "mlx-lm, tied embeddings": (TIED, "embed_tokens", {}),
    "mlx-lm, Conv1D": (GPT2, "c_attn|c_proj|c_fc", {}),
    "mlx-lm, Conv1D under its own names": (GPT2, "c_attn|c_proj", {"backbone": "model"}),
    "mlx-lm, DoRA of Conv1D": (GPT2, "c_attn|c_proj", {"dora": True, "backbone": "model"}),
    "mlx-lm, embeddings of positions": (GPT2, "wpe", {"backbone": "model"}),
}
"""Family, targets, and further options: magnitudes, and mlx-lm's name of the backbone."""

MIXTURES = {
    "mlx-lm, experts of Mixtral": (
        "MixtralForCausalLM",
        {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
        False,
    ),
    "mlx-lm, experts of Qwen3-MoE": (
        "Qwen3MoeForCausalLM",
        {"gate_proj": "gate_proj", "down_proj": "down_proj"},
        False,
    ),
    "mlx-lm, experts, an old version": ("OlmoeForCausalLM", {"up_proj": "up_proj"}, True),
}
"""Class, words of mlx-lm and of the files for an expert's matrices, and whether lora_a has two dimensions."""

MORE = {
    "parameters of layers": (
        LLAMA,
        {"target_modules": [], "target_parameters": ["q_proj.weight", "embed_tokens.weight"]},
    ),
    "parameters of Conv1D": (
        GPT2,
        {"target_modules": [], "target_parameters": ["c_attn.weight", "attn.c_proj.weight"]},
    ),
    "running statistics": (
        ("ResNetForImageClassification", "resnet", {}),
        {"target_modules": ["convolution"], "modules_to_save": ["normalization"]},
    ),
}
"""Matrices whose factors have the order of the tensor, whatever the layer; buffers."""

Made = Callable[[Path], tuple[Path, Path, Mapping[str, torch.Tensor]]]


def _words(name: str, options: object) -> str:
    text = json.dumps(options).replace('"', "").replace("\\\\", "\\")
    return f"{name}: {text}"


def _mlx(family: tuple[str, str, dict[str, bool]], targets: str, more: Mapping[str, object]) -> Made:
    return lambda folder: of_mlx(_made(folder), targets, family, **more)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _by_peft(family: object, options: Mapping[str, object]) -> Made:
    return lambda folder: saved(folder, family, options)


def _of_experts(name: str, options: Mapping[str, object]) -> Made:
    return _by_peft(name, {"target_modules": [], **options})


def _by_hand(name: str, targets: str, options: Mapping[str, object]) -> Made:
    return lambda folder: in_old_names(_made(folder), name, targets, options)


ALL: dict[str, tuple[Made, str]] = {
    **{
        kind: (_by_peft(family, options), _words(family if isinstance(family, str) else family[0], options))
        for kind, (family, options) in {**KINDS, **MORE}.items()
    },
    **{f"fused experts: {kind}": (_of_experts(*one), _words(*one)) for kind, one in FUSED.items()},
    **{
        f"transformers 4: {kind}": (_by_hand(*one), _words(one[0], {"targets": one[1], **one[2]}))
        for kind, one in TRANSFORMERS_4.items()
    },
    **{kind: (_mlx(*one), f"{one[0][0]}: {one[1]}") for kind, one in MLX.items()},
    **{
        kind: (lambda folder, one=one: of_mlx_mixture(_made(folder), *one), _words(one[0], list(one[1])))
        for kind, one in MIXTURES.items()
    },
}
"""How an adapter of each kind is made, and of what, in words."""


def difference(base: Path, adapter: Path, expected: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference of a logit."""
    experts = experts_of(base, a=adapter)
    module, names = experts.tasks["a"].module, experts.tasks["a"].weights.headers
    truth = logits(module, {name: expected[name] for name in names})
    return (one_hot_logits(experts, "a") - truth).abs().max().item()
