"""The module of a state dict whose head has other shapes than its class was built with."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from adamerge.experts.skeleton import skeleton
from adamerge.storage.weights import Weights


def in_shapes_of(module: nn.Module, weights: Weights, names: Sequence[str]) -> nn.Module:
    """Give a module without numbers the shapes of a state dict, so that it can hold it.

    A model of transformers is built again with as many labels, and a linear layer gets the sizes of its weight; of
    other layers only the parameters change.

    Args:
        module: Module whose parameters are on the meta device; it is changed.
        weights: Tensors under the module's names.
        names: Names of the module's parameters that the state dict has.

    Returns:
        The module, or the one that was built again.
    """
    parameters = dict(module.named_parameters())
    other = {name: weights.shape(name) for name in names if weights.shape(name) != parameters[name].shape}
    labels = min((shape[0] for shape in other.values() if shape), default=0)
    if labels and isinstance(module, PreTrainedModel):
        config = copy.deepcopy(module.config)
        config.num_labels = labels
        again = skeleton(config, type(module).__name__)
        if all(weights.shape(name) == p.shape for name, p in again.named_parameters() if name in names):
            return again
    _reshape(module, other, parameters)
    return module


def _reshape(module: nn.Module, shapes: Mapping[str, torch.Size], parameters: Mapping[str, nn.Parameter]) -> None:
    """Replace parameters, under every name that they have."""
    new = {
        id(parameters[name]): nn.Parameter(parameters[name].new_empty(shape), parameters[name].requires_grad)
        for name, shape in shapes.items()
    }
    for name, former in list(module.named_parameters(remove_duplicate=False)):
        if id(former) in new:
            place, _, word = name.rpartition(".")
            owner, parameter = module.get_submodule(place), new[id(former)]
            owner.register_parameter(word, parameter)
            if isinstance(owner, nn.Linear) and parameter.ndim == 2:
                owner.out_features, owner.in_features = parameter.shape
