"""Factors that are no change of a weight of a module, although it is there: why, and what to do."""

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from adamerge.experts.adapter_keys import Parts
from adamerge.experts.adapter_places import OTHER_BASE

_WITHOUT = "Train without it (exclude_modules)"


def no_weight(parts: Parts, path: str, owner: nn.Module) -> tuple[str, str] | None:
    """Say why factors are no change of a weight of a module, and what to do; None if they are."""
    if "embedding A" in parts.names and not isinstance(owner, nn.Embedding):
        return f"is a factor of an embedding, but {path} is a {type(owner).__name__}", OTHER_BASE
    if getattr(owner, "groups", 1) > 1 and "A" in parts.names:
        what = "a grouped convolution: PEFT's factors see the inputs of all groups, so that"
        return f"is a factor of {path}, {what} what was trained is no weight of the layer", _WITHOUT
    if is_parametrized(owner, "weight"):
        what = "whose weight is computed from others in every step (weight norm)"
        return f"is a factor of {path}, {what}", f"{_WITHOUT}, or merge it with PEFT and give the result"
    return None


def never_called(parts: Parts) -> tuple[str, str]:
    """Say that factors of the out_proj of nn.MultiheadAttention alone are in no forward pass of PEFT's model."""
    what = (
        f"is a factor of {parts.module} alone, which nn.MultiheadAttention reads and never calls: PEFT trains without "
        "it, and adds it when it merges"
    )
    return what, f"{_WITHOUT}; if other code than PEFT did train it, merge it there, and give the complete model"
