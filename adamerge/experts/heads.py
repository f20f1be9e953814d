"""Which parameters are a head: what turns the backbone's output into a task's labels."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel


def head_names(module: nn.Module) -> frozenset[str]:
    """Parameters of a module that belong to its task's labels rather than to the shared model.

    What lies outside the backbone (what transformers calls `base_model`) is a head, whether or not it counts labels:
    a classifier, scores of multiple choices, DistilBERT's `pre_classifier`. The output embeddings of a language model
    are not, nor is the rest of the module that they lie in (BERT's `cls.predictions`).

    Some modules hold no backbone of their own (CLIP's and SigLIP's image classifiers, T5). There the module is built
    once more for one label more: a parameter whose shape follows the number of labels is a head, and so is the rest of
    its top-level module. Nothing here knows an architecture.

    Args:
        module: A transformers model; others have no head that could be known.

    Returns:
        Canonical parameter names; empty where there is no head.
    """
    if not isinstance(module, PreTrainedModel):
        return frozenset()
    following = _follow_labels(module)
    tops = {name.partition(".")[0] for name in following}
    names = dict(module.named_parameters())
    head = {name for name in names if name.partition(".")[0] in tops}
    if sum(names[name].numel() for name in head) > sum(p.numel() for p in names.values()) / 2:
        head = following  # the labels' module holds the backbone too
    return frozenset(head | (_outside_backbone(module) - _around_output_embeddings(module)))


def _follow_labels(module: PreTrainedModel) -> set[str]:
    """Parameters whose shape changes when there is one label more."""
    config = copy.deepcopy(module.config)
    config.num_labels = (config.num_labels or 0) + 1
    with torch.device("meta"):
        other = dict(type(module)._from_config(config).named_parameters())
    return {name for name, p in module.named_parameters() if name not in other or other[name].shape != p.shape}


def _outside_backbone(module: PreTrainedModel) -> set[str]:
    backbone = module.base_model
    if backbone is module:
        return set()
    inside = {id(parameter) for parameter in backbone.parameters()}
    return {name for name, parameter in module.named_parameters() if id(parameter) not in inside}


def _around_output_embeddings(module: PreTrainedModel) -> set[str]:
    """Parameters of the module that holds a language model's output embeddings; of all of it if that is the model."""
    embeddings = module.get_output_embeddings()
    path = next((name for name, part in module.named_modules() if part is embeddings), None)
    if path is None:
        return set()
    around = path.rpartition(".")[0]
    return {name for name, _ in module.named_parameters() if not around or name.startswith(f"{around}.")}


def parts_of_backbone(module: nn.Module) -> dict[str, str]:
    """The child of the backbone that each of its parameters lies in; a module that has no backbone in it is one.

    Example:
        >>> body = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> parts_of_backbone(nn.ModuleDict({"body": body, "top": nn.Linear(2, 1, bias=False)}))
        {'body.0.weight': 'body', 'top.weight': 'top'}
    """
    backbone = module.base_model if isinstance(module, PreTrainedModel) else module
    path = next(name for name, part in module.named_modules() if part is backbone)
    start = f"{path}." if path else ""
    names = [name for name, _ in module.named_parameters() if name.startswith(start)]
    return {name: start + name.removeprefix(start).partition(".")[0] for name in names}
