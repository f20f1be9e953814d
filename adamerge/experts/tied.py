"""Parameters that share one tensor under several names, and modules in which they stop sharing it."""

import copy
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from adamerge.experts.skeleton import parameters_on_meta


def tied_names(module: nn.Module) -> list[tuple[str, ...]]:
    """List the names of each parameter of a module: several if parameters are tied; the first is canonical.

    Args:
        module: The module.

    Returns:
        The names of each parameter.

    Example:
        >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        >>> b.weight = a.weight
        >>> tied_names(nn.Sequential(a, b))
        [('0.weight', '1.weight')]
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(aliases) for aliases in names.values()]


def possible_ties(module: nn.Module) -> list[tuple[str, ...]]:
    """List the names of each parameter that would be tied if config.json said `tie_word_embeddings: true`.

    Args:
        module: A transformers model; a plain module has no configuration.

    Returns:
        The names of each tied parameter.
    """
    if not isinstance(module, PreTrainedModel):
        return []
    config = copy.deepcopy(module.config)
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = True
    with parameters_on_meta():
        return [aliases for aliases in tied_names(type(module)._from_config(config)) if len(aliases) > 1]


def says_tied(module: nn.Module) -> bool:
    """Return whether the configuration of a module ties its embeddings."""
    if not isinstance(module, PreTrainedModel):
        return False
    parts = (module.config, module.config.get_text_config())
    return any(getattr(part, "tie_word_embeddings", False) for part in parts)


def untie(module: nn.Module, names: Iterable[str]) -> None:
    """Give a module parameters of their own under some names of tied parameters; the values are not kept.

    Args:
        module: The module; its parameters are on the meta device.
        names: Names that must not share another's tensor; those that are not tied stay as they are.

    Example:
        >>> a, b = nn.Linear(2, 2, bias=False, device="meta"), nn.Linear(2, 2, bias=False, device="meta")
        >>> b.weight = a.weight
        >>> both = nn.Sequential(a, b)
        >>> untie(both, ["1.weight"])
        >>> tied_names(both)
        [('0.weight',), ('1.weight',)]
    """
    tied = {alias for aliases in tied_names(module) for alias in aliases[1:]}
    for name in tied & set(names):
        path, _, leaf = name.rpartition(".")
        parameter = module.get_parameter(name)
        setattr(module.get_submodule(path), leaf, nn.Parameter(torch.empty_like(parameter), parameter.requires_grad))
