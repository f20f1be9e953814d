"""Base and experts in memory (modules, state dicts, checkpoints) under one set of names."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from adamerge.experts.checkpoint import Checkpoint, parameters_on_meta, skeleton
from adamerge.experts.compatibility import name_problems, quantised_problems
from adamerge.experts.divide import divide
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.heads import head_names
from adamerge.experts.match_names import Match, match_tensors
from adamerge.experts.name_patterns import Split
from adamerge.storage.weights import InMemory, Renamed, Weights
from adamerge.types import IncompatibleExpertsError

_HEADS: tuple[Mapping[Any, Any], ...] = (
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)
"""transformers' classes with a head by model type."""

Source: TypeAlias = nn.Module | Mapping[str, Tensor] | Checkpoint
"""Every accepted form of an expert."""


def from_modules(base: nn.Module | Checkpoint, experts: Mapping[str, Source], split: Split | None = None) -> Experts:
    """Match a base and experts, some of them in memory, under one set of names. None of them is changed.

    Experts may have another class than the base, for example a classifier on a bare backbone: names are matched as
    transformers does when it loads one into the other, and heads are found as for checkpoints. The head of a plain
    module cannot be found; parameters whose names match `split.head` stay each expert's own.

    Args:
        base: The model that all experts were fine-tuned from.
        experts: Modules, checkpoints, or state dicts. The class of a state dict is the one that has a place for each of
            its tensors: the base's; or another expert's, or the base's architecture with a head, if only one does.
        split: Patterns that override which parameters are merged.

    Returns:
        The base and its experts, divided into shared parameters and heads.

    Raises:
        IncompatibleExpertsError: One line per problem.
    """
    classes = [_module_of(model) for model in (base, *experts.values()) if not isinstance(model, Mapping)]
    if not classes:
        raise IncompatibleExpertsError(
            "base: expected a module or a checkpoint among base and experts, found state dicts alone, which have no "
            "class; give the base as a module."
        )
    tasks: dict[str, Expert] = {}
    problems: list[str] = []
    for name, expert in experts.items():
        try:
            tasks[name] = _expert(name, expert, classes)
        except IncompatibleExpertsError as error:
            problems.append(str(error))
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    source = base.source if isinstance(base, Checkpoint) else "base"
    names, left_out = _names_of_base(source, _weights(base), tasks.values())
    checkpoint = base if isinstance(base, Checkpoint) else None
    together = Experts(Renamed(_weights(base), names), tasks, (), (), left_out, checkpoint)
    return divide(together, split or Split(), source=source)


def _names_of_base(source: str, weights: Weights, tasks: Iterable[Expert]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Match the base's names with those of every expert's class; also return those that no expert has a place for."""
    modules = {type(expert.module): expert.module for expert in tasks}
    matches = [match_tensors(source, weights, module) for module in modules.values()]
    names = {name: own for found in matches for name, own in found.names.items()}
    return names, tuple(n for n in matches[0].unexpected if all(n in found.unexpected for found in matches))


def _expert(name: str, expert: Source, classes: list[nn.Module]) -> Expert:
    weights = _weights(expert)
    if isinstance(expert, Mapping):
        module, found = _class_of_state(name, weights, classes)
    else:
        module = _module_of(expert)
        found = match_tensors(name, weights, module)
    renamed = Renamed(weights, found.names)
    parameters = [parameter for parameter, _ in module.named_parameters() if parameter in found.names]
    where = "the file" if isinstance(expert, Checkpoint) else "the state dict"
    problems = name_problems(name, where, module, found) + quantised_problems(name, renamed, parameters)
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    checkpoint = expert if isinstance(expert, Checkpoint) else None
    return Expert(name, module, renamed, tuple(head_names(module)), "", checkpoint, found.names if checkpoint else {})


def _class_of_state(name: str, weights: Weights, classes: list[nn.Module]) -> tuple[nn.Module, Match]:
    """Find the class of a state dict: the base's if it fits exactly, else the only one that does.

    Raises:
        IncompatibleExpertsError: Several classes fit exactly, a classifier of rows and one of tokens for example.
    """
    base, *others = classes
    found = match_tensors(name, weights, base)
    if not (found.missing or found.unexpected):
        return emptied(base), found
    fitting: dict[str, tuple[nn.Module, Match]] = {}
    for module in (*others, *_classifiers(name, weights, base)):
        match = match_tensors(name, weights, module)
        if not (match.missing or match.unexpected):
            fitting.setdefault(type(module).__name__, (emptied(module), match))
    if len(fitting) > 1:
        raise IncompatibleExpertsError(
            f"{name}: expected a state dict of one class, but its tensors fit {' and '.join(fitting)}, which read it "
            "differently; give the module instead."
        )
    return next(iter(fitting.values()), (emptied(base), found))


def _classifiers(name: str, weights: Weights, base: nn.Module) -> Iterator[nn.Module]:
    """Yield modules without weights that add a head to the base's architecture, with the state dict's labels."""
    unplaced = match_tensors(name, weights, base).unexpected
    sizes = [weights.shape(tensor)[0] for tensor in unplaced if weights.shape(tensor)]
    if not isinstance(base, PreTrainedModel) or not sizes:
        return
    config = copy.deepcopy(base.config)
    config.num_labels = min(sizes)
    for mapping in _HEADS:
        if architecture := mapping.get(config.model_type):
            module = skeleton(config, architecture)
            shapes = {n: p.shape for n, p in module.named_parameters()}
            names = match_tensors(name, weights, module).names
            if all(weights.shape(names[n]) == shape for n, shape in shapes.items() if n in names):
                yield module


def _weights(source: Source) -> Weights:
    if isinstance(source, Checkpoint):
        return source.tensors
    return InMemory(source.state_dict() if isinstance(source, nn.Module) else source)


def _module_of(source: nn.Module | Checkpoint) -> nn.Module:
    if isinstance(source, Checkpoint):
        return skeleton(source.config, source.architecture, trust_remote_code=source.trust_remote_code)
    return emptied(source)


def emptied(module: nn.Module) -> nn.Module:
    """Copy a module in eval mode: buffers are copied, parameters are on the meta device, ties are kept."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()
    }
    with parameters_on_meta():
        return copy.deepcopy(module, memo).eval()
