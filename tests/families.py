"""Tiny bases and experts of real architectures, and plain modules, for tests."""

from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import (
    BertConfig,
    CLIPConfig,
    LlamaConfig,
    PreTrainedModel,
    SiglipConfig,
    T5Config,
    ViTConfig,
)

TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
CLIP = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 12}

CONFIGS = {
    "bert": lambda **more: BertConfig(**TEXT, **more),
    "vit": lambda **more: ViTConfig(**VISION, **more),
    "clip": lambda **more: CLIPConfig(**CLIP, **more),
    "siglip": lambda **more: SiglipConfig(text_config=TEXT, vision_config=VISION, **more),
    "llama": lambda **more: LlamaConfig(**TEXT, **more),
    "t5": lambda **more: T5Config(
        d_model=16, num_layers=2, num_heads=2, d_ff=32, d_kv=8, vocab_size=40, decoder_start_token_id=0, **more
    ),
}


def build(architecture: str, family: str, seed: int, **more) -> PreTrainedModel:
    """A model with random weights that are drawn independently for each seed."""
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(CONFIGS[family](**more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def save_family(folder: Path, base: PreTrainedModel, experts: dict[str, PreTrainedModel]) -> dict[str, str]:
    """Save models as checkpoints; returns the experts' paths by task, and the base's under ""."""
    paths = {}
    for name, model in {"": base, **experts}.items():
        place = folder / (name or "base")
        model.save_pretrained(place)
        paths[name] = str(place)
    return paths


class Tiny(nn.Module):
    """A plain module with a matrix, a tied matrix, a vector, a scalar, and a part that one task does not touch."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 6, bias=False)
        self.again = nn.Linear(5, 6, bias=False)
        self.again.weight = self.second.weight
        self.scale = nn.Parameter(torch.rand(()) + 0.5)
        self.side = nn.Linear(6, 6)
        self.to(dtype)

    def forward(self, x: torch.Tensor, deep: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.again(torch.tanh(self.first(self.second(torch.tanh(self.first(x))))))
        return self.scale * (hidden if deep is None else self.side(hidden))
