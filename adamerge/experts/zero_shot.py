"""Zero-shot heads of CLIP-like models: class names instead of a classifier."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoTokenizer

from adamerge.experts.checkpoint import Checkpoint
from adamerge.storage.weights import Weights
from adamerge.types import ConfigError


@dataclass
class ZeroShot:
    """Class names and templates of a zero-shot head of a CLIP-like base.

    Attributes:
        classes: Name of each class, in the order of the labels.
        templates: Sentences with {} in place of the name; their text features are averaged.
    """

    classes: list[str]
    templates: list[str] = field(default_factory=lambda: ["a photo of a {}."])

    def __post_init__(self) -> None:
        """Check both lists."""
        if len(self.classes) < 2:
            raise ConfigError(f"zero_shot.classes: expected at least two class names, found {self.classes}.")
        if not self.templates or any("{}" not in template for template in self.templates):
            raise ConfigError(f"zero_shot.templates: expected sentences that contain {{}}, found {self.templates}.")


class ZeroShotClassifier(nn.Module):
    """Images → logits: normalised image features times a head of text features.

    logits = normalize(image features) @ headᵀ.

    Args:
        model: A CLIP-like model.
        head: (C, D), from `text_head`.
    """

    PREFIX: ClassVar[str] = "model."
    main_input_name: ClassVar[str] = "pixel_values"

    def __init__(self, model: nn.Module, head: Tensor) -> None:
        super().__init__()
        self.model = model
        self.num_labels = len(head)
        self.register_buffer("head", head, persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute logits (B, C) of images (B, 3, H, W)."""
        features = image_features(self.model, pixel_values)
        return nn.functional.normalize(features, dim=-1) @ cast(Tensor, self.head).T


class _TextFeatures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **tokens: Tensor) -> Tensor:
        return _features(self.model, "get_text_features")(**tokens)


@torch.no_grad()
def text_head(module: nn.Module, weights: Weights, base: Checkpoint, words: ZeroShot) -> tuple[Tensor, set[str]]:
    """Compute the head of a zero-shot task from text features.

    head[c] = exp(logit scale) · normalize(meanₜ normalize(text features of template t with the name of class c)).

    Args:
        module: The base's module without weights.
        weights: The base's weights under the module's names.
        base: Contains the tokenizer.
        words: Class names and templates.

    Returns:
        The head (C, D), fp32, and the names of the parameters that computed it.

    Raises:
        ConfigError: The base is not CLIP-like: it computes no text features or has no logit scale.

    Reference:
        Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, section 3.1.4.
    """
    if not hasattr(module, "get_text_features") or "logit_scale" not in weights:
        raise ConfigError(
            f"{base.source}: zero_shot needs a CLIP-like base, but {type(module).__name__} has no text features or no "
            "logit_scale. Remove zero_shot, or use another base."
        )
    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=base.trust_remote_code)
    parameters = {ZeroShotClassifier.PREFIX + n: weights[n].float() for n, _ in module.named_parameters()}
    texts = _TextFeatures(module).eval()
    rows: list[Tensor] = []
    with _parameters_used(module) as used:
        for name in words.classes:
            tokens = tokenizer(
                [t.format(name) for t in words.templates], return_tensors="pt", padding="max_length", truncation=True
            )
            accepted = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
            features = nn.functional.normalize(functional_call(texts, parameters, (), accepted), dim=-1)  # (T, D)
            rows.append(nn.functional.normalize(features.mean(0), dim=-1))
    return torch.stack(rows) * weights["logit_scale"].float().exp(), used | {"logit_scale", "logit_bias"}


@contextmanager
def _parameters_used(module: nn.Module) -> Iterator[set[str]]:
    """Collect the names of the parameters of all submodules that run inside the block."""
    used: set[str] = set()
    with ExitStack() as hooks:
        for path, part in module.named_modules():
            names = {f"{path}.{name}".lstrip(".") for name, _ in part.named_parameters(recurse=False)}
            hooks.callback(part.register_forward_hook(lambda *_, names=names: used.update(names)).remove)
        yield used


def image_features(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Return a CLIP-like model's features (B, D) of images (B, 3, H, W)."""
    return _features(model, "get_image_features")(pixel_values=pixel_values)


def _features(model: nn.Module, method: str) -> Callable[..., Tensor]:
    """Wrap a feature method of a CLIP-like model that returns a tensor or an output with `pooler_output`."""

    def features(**inputs: Tensor) -> Tensor:
        output = getattr(model, method)(**inputs)
        return output if isinstance(output, Tensor) else output.pooler_output

    return features
