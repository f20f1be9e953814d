"""A checkpoint's own class: by the name in config.json, or by the tensors in its files where no name is given."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from adamerge.experts.backed import check_backed
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.conversion import Converted
from adamerge.experts.match_names import match
from adamerge.experts.skeleton import parameters_on_meta, skeleton
from adamerge.types import ConfigError, IncompatibleExpertsError

HEADS: tuple[Mapping[Any, Any], ...] = (
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)
"""transformers' classes with a head by model type, in the order in which they are tried: encoders that could serve as
decoders too are masked language models."""


def own_module(checkpoint: Checkpoint, base: Checkpoint | None = None) -> nn.Module:
    """Build the module of a checkpoint's own class, without weights.

    If config.json names no class, it is the first with a place for each tensor of the files and a tensor for each of
    its parameters: the base's class, the bare model, then the classes of `HEADS`; else the bare model. Where heads are
    tied, several fit; then a class whose own names are those of the files goes before others.

    Args:
        checkpoint: The checkpoint.
        base: The base that it was fine-tuned from, if it is an expert.

    Returns:
        The module.

    Raises:
        ConfigError: transformers has no class of the name in config.json, or cannot build it.
        IncompatibleExpertsError: The files cannot hold the model that config.json describes.
    """
    check_backed(checkpoint)
    if getattr(checkpoint.config, "architectures", None):
        return skeleton(checkpoint.config, checkpoint.architecture, trust_remote_code=checkpoint.trust_remote_code)
    bare = skeleton(checkpoint.config, "AutoModel", trust_remote_code=checkpoint.trust_remote_code)
    fitting: list[nn.Module] = []
    for module in chain(_of_class_of(base, checkpoint), (bare,), _with_heads(checkpoint)):
        if _fits(checkpoint, module):
            if module is not bare or checkpoint.tensors.headers.keys() <= module.state_dict().keys():
                return module
            fitting.append(module)
    return (fitting or [bare])[0]


def _of_class_of(base: Checkpoint | None, checkpoint: Checkpoint) -> Iterator[nn.Module]:
    """Yield a module of the base's class, if the checkpoint is of its kind and transformers has the class."""
    if base is not None and base.config.model_type == checkpoint.config.model_type:
        if isinstance(getattr(transformers, base.architecture, None), type) and base.architecture != "AutoModel":
            yield skeleton(checkpoint.config, base.architecture)


def _with_heads(checkpoint: Checkpoint) -> Iterator[nn.Module]:
    for mapping in HEADS:
        names = mapping.get(checkpoint.config.model_type) or ()
        for architecture in (names,) if isinstance(names, str) else names:
            yield skeleton(checkpoint.config, architecture)


def _fits(checkpoint: Checkpoint, module: nn.Module) -> bool:
    """Return whether names and shapes of all tensors are those of a module."""
    try:
        found = match(checkpoint, module)
        headers = Converted(checkpoint.tensors, found.names).headers
    except IncompatibleExpertsError:
        return False
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    return not (found.missing or found.unexpected) and all(headers[n].shape == shapes[n] for n in shapes)


def of_base(base: Checkpoint) -> nn.Module:
    """Build the base's own module; the bare model if transformers does not have its class."""
    try:
        return own_module(base)
    except ConfigError:
        return skeleton(base.config, "AutoModel", trust_remote_code=base.trust_remote_code)


def dispensable(module: nn.Module) -> set[str]:
    """Name the parameters without which a module's class can be built, and saved: the pooler of BERT and the like.

    Args:
        module: A module without weights.

    Returns:
        Names in the module.
    """
    if not isinstance(module, PreTrainedModel) or "add_pooling_layer" not in inspect.signature(type(module)).parameters:
        return set()
    with parameters_on_meta():
        bare = type(module)._from_config(copy.deepcopy(module.config), add_pooling_layer=False)
    return dict(module.named_parameters()).keys() - dict(bare.named_parameters()).keys()
