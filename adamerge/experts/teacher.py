"""The base as a teacher of the merge: its own head's logits where it has one, else its last hidden states."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adamerge.experts.conversion import Converted
from adamerge.experts.divide import with_head
from adamerge.experts.experts import KEEP, Expert, Experts
from adamerge.experts.heads import head_names, parts_of_backbone
from adamerge.experts.match_names import fill_tied, match
from adamerge.experts.model_kind import kind_of, trial
from adamerge.experts.own_class import of_base
from adamerge.experts.zero_shot import ZeroShotClassifier, image_features
from adamerge.storage.weights import Joined, Renamed, Weights
from adamerge.types import ConfigError


class Vectors(NamedTuple):
    """What a model without a head returns.

    Attributes:
        last_hidden_state: Of every token or patch, (B, S, D); or of the whole image, (B, D).
        hidden_states: Those of all layers, if they were requested.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class WithoutHead(nn.Module):
    """An expert's module up to its last hidden states.

    Args:
        model: A transformers model, or a CLIP-like one, of which the image's features are taken.
        images: Whether to take these.
    """

    def __init__(self, model: PreTrainedModel, *, images: bool) -> None:
        super().__init__()
        self.model, self.config, self.images = model, model.config, images
        self.main_input_name = "pixel_values" if images else model.main_input_name

    @property
    def forwards_to(self) -> nn.Module:
        """The module whose forward pass it runs, with the same arguments (`forward_arguments`)."""
        return self.model.base_model

    def forward(self, **inputs: Tensor | bool) -> Vectors:
        """Run the model without its head; a model that has no backbone apart runs as a whole.

        Raises:
            ConfigError: It returns no hidden states.
        """
        if self.images:
            return Vectors(image_features(self.model, cast(Tensor, inputs["pixel_values"])))
        whole = self.forwards_to is self.model
        output = self.forwards_to(**{**inputs, **({"output_hidden_states": True} if whole else {})})
        states: tuple[Tensor, ...] | None = getattr(output, "hidden_states", None)
        last: Tensor | None = getattr(output, "last_hidden_state", states[-1] if states else None)
        if last is None:
            raise ConfigError(f"{type(self.model).__name__} returns no hidden states. Remove keep.")
        return Vectors(last, states)


def with_teacher(experts: Experts) -> Experts:
    """Make the base a teacher: a model that has rows, but no column of coefficients.

    What it predicts is compared by the logits of its own head where the experts' classes or its own class have one (of
    a language model its output embeddings), and by the mean of its last hidden states elsewhere.

    Args:
        experts: Base and experts, divided.

    Raises:
        ConfigError: The base has no head, and its hidden states cannot be found.
    """
    return replace(experts, teacher=_of_experts(experts) or _of_own_class(experts) or _without_head(experts))


def _of_experts(experts: Experts) -> Expert | None:
    """Take the class of an expert whose head the base has in the same shape, or that has none."""
    for task, expert in experts.tasks.items():
        if experts.head_of_base.get(task) and not isinstance(expert.module, ZeroShotClassifier):
            return _teacher(experts, expert.module, expert.head, experts.base, expert.prefix)
    return None


def _of_own_class(experts: Experts) -> Expert | None:
    """Take the base's own class, if it returns logits and its backbone is what is merged."""
    base, common = experts.checkpoint, {*experts.shared, *experts.kept}
    if base is None:
        return None
    own = of_base(base)
    found = fill_tied(base.source, match(base, own), own)
    merged = parts_of_backbone(own).keys() <= common
    if not merged or found.missing or not (head_names(own) or kind_of(own).language_model) or not _returns_logits(own):
        return None
    head = [name for name, _ in own.named_parameters() if name not in common]
    return _teacher(experts, own, head, Converted(base.tensors, found.names))


def _returns_logits(module: nn.Module) -> bool:
    """Return whether a class of texts returns logits; those of pre-training return several of other names."""
    if kind_of(module).main_input != "input_ids":
        return True
    return hasattr(trial(module, {"input_ids": torch.tensor([[1, 2, 3]])}), "logits")


def _without_head(experts: Experts) -> Expert:
    """Take the hidden states of the first expert's class, whose head and pooler are there but change nothing in them.

    Raises:
        ConfigError: It is no class of transformers.
    """
    expert = next(iter(experts.tasks.values()))
    own, images = expert.own_module, isinstance(expert.module, ZeroShotClassifier)
    if not isinstance(own, PreTrainedModel):
        raise ConfigError(
            "keep: expected a base with a head of the shape of an expert's, or a class of transformers, of which the "
            f"hidden states are known; found {type(own).__name__} without {', '.join(expert.head[:3])} in the base. "
            "Give the base a head of that shape, or remove keep."
        )
    return _teacher(experts, WithoutHead(own, images=images), expert.head, expert.weights, "model.")


def _teacher(experts: Experts, module: nn.Module, head: Iterable[str], own: Weights, prefix: str = "") -> Expert:
    """Make the base's weights in a module a model of its own.

    Args:
        experts: Base and experts.
        module: The module.
        head: Parameters that are not merged.
        own: Has these, and stored buffers beside them.
        prefix: As that of an expert.
    """
    inside = module.get_submodule(prefix.removesuffix("."))
    names, left = [name for name, _ in (*inside.named_parameters(), *inside.named_buffers())], {*head}
    shared = Renamed(experts.base, {name: name for name in names if name in experts.base and name not in left})
    beside = Renamed(own, {name: name for name in names if name in own and name not in shared})
    made = Expert(KEEP, module, Joined(shared, beside), (), prefix, experts.checkpoint)
    return with_head(made, tuple(name for name in names if name in left), experts.base)


def described(teacher: Expert) -> str:
    """Say what of the base is compared."""
    if not isinstance(teacher.module, WithoutHead):
        return f"the base teaches by its own predictions ({teacher.kind.architecture})"
    what = "features of images" if teacher.module.images else "last hidden states, their mean over each row"
    return f"the base has no head, and teaches by its {what} ({type(teacher.own_module).__name__})"
