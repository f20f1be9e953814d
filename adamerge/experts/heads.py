"""Detection of heads: the parameters that map the backbone's output to a task's labels."""

import copy

from torch import nn
from transformers import PreTrainedModel

from adamerge.experts.skeleton import parameters_on_meta


def head_names(module: nn.Module) -> frozenset[str]:
    """Find the parameters of a module that belong to its task's labels and not to the shared model.

    Parameters outside the backbone (transformers' `base_model`) belong to the head, whether or not their shape depends
    on the number of labels: a classifier, scores of multiple choices, DistilBERT's `pre_classifier`. The output
    embeddings of a language model do not, nor does the rest of the module that contains them (BERT's
    `cls.predictions`).

    Some modules contain no separate backbone (CLIP's and SigLIP's image classifiers, T5). Such a module is built again
    with one more label: a parameter whose shape changes with the number of labels belongs to the head, and so does the
    rest of its top-level module. No architecture is treated by name.

    Args:
        module: A transformers model; the head of any other module cannot be found.

    Returns:
        Canonical parameter names; empty if there is no head.
    """
    if not isinstance(module, PreTrainedModel):
        return frozenset()
    following = _follow_labels(module)
    tops = {name.partition(".")[0] for name in following}
    names = dict(module.named_parameters())
    head = {name for name in names if name.partition(".")[0] in tops}
    if sum(names[name].numel() for name in head) > sum(p.numel() for p in names.values()) / 2:
        head = following  # the module with the labels also contains the backbone
    return frozenset(head | (_outside_backbone(module) - _around_output_embeddings(module)))


def _follow_labels(module: PreTrainedModel) -> set[str]:
    """Find the parameters whose shape changes with the number of labels."""
    config = copy.deepcopy(module.config)
    config.num_labels = (config.num_labels or 0) + 1
    with parameters_on_meta():
        other = dict(type(module)._from_config(config).named_parameters(remove_duplicate=False))
    return {name for name, p in module.named_parameters() if name not in other or other[name].shape != p.shape}


def _outside_backbone(module: PreTrainedModel) -> set[str]:
    backbone = module.base_model
    if backbone is module:
        return set()
    inside = {id(parameter) for parameter in backbone.parameters()}
    return {name for name, parameter in module.named_parameters() if id(parameter) not in inside}


def _around_output_embeddings(module: PreTrainedModel) -> set[str]:
    """Find all parameters of the module that contains the output embeddings; it may be the whole model."""
    embeddings = module.get_output_embeddings()
    path = next((name for name, part in module.named_modules() if part is embeddings), None)
    if path is None:
        return set()
    around = path.rpartition(".")[0]
    return {name for name, _ in module.named_parameters() if not around or name.startswith(f"{around}.")}


def parts_of_backbone(module: nn.Module) -> dict[str, str]:
    """Map each parameter of the backbone to the child module that contains it; a plain module is its own backbone.

    Args:
        module: A transformers model or a plain module.

    Returns:
        Path of the child module by name of the parameter.

    Example:
        >>> body = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> parts_of_backbone(nn.ModuleDict({"body": body, "top": nn.Linear(2, 1, bias=False)}))
        {'body.0.weight': 'body', 'top.weight': 'top'}
    """
    start = path_of_backbone(module)
    names = [name for name, _ in module.named_parameters() if name.startswith(start)]
    return {name: start + name.removeprefix(start).partition(".")[0] for name in names}


def path_of_backbone(module: nn.Module) -> str:
    """Return the path of a module's backbone with a dot at its end; empty if the module is its own backbone."""
    backbone = module.base_model if isinstance(module, PreTrainedModel) else module
    path = next(name for name, part in module.named_modules() if part is backbone)
    return f"{path}." if path else ""
