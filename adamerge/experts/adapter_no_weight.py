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


def read_elsewhere(parts: Parts, reader: str, *, called: bool) -> tuple[str, str]:
    """Say that a class computes with a weight itself, where PEFT's model has it without its factors.

    Args:
        parts: The factors.
        reader: Name of the class.
        called: Whether the layer is called too.
    """
    if called:
        what = (
            f"is a factor of {parts.module}, whose weight {reader} reads beside calling the layer: PEFT trains with it "
            "in the call alone, and adds it for both when it merges, so that what was trained is no weight of the layer"
        )
        return what, _WITHOUT
    what = (
        f"is a factor of {parts.module}, whose weight {reader} reads without calling the layer: PEFT trains without "
        "it, and adds it when it merges"
    )
    return what, f"{_WITHOUT}; if other code than PEFT did train it, merge it there, and give the complete model"
