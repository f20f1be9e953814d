"""Base and experts in memory (modules, state dicts, checkpoints) under one set of names."""

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.compatibility import apart_problems, name_problems, quantised_problems
from adamerge.experts.conversion import Converted
from adamerge.experts.divide import divide
from adamerge.experts.experts import Expert, Experts, loaded_from
from adamerge.experts.heads import head_names
from adamerge.experts.match_names import Match, match_tensors
from adamerge.experts.name_patterns import Split, several
from adamerge.experts.own_class import HEADS, own_module
from adamerge.experts.skeleton import parameters_on_meta, skeleton
from adamerge.experts.state_shapes import in_shapes_of
from adamerge.experts.tensors_alone import TensorsAlone, check_prefix, tensors_alone
from adamerge.storage.quiet_loggers import without_records
from adamerge.storage.weights import InMemory, Weights
from adamerge.types import Fact, IncompatibleExpertsError

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
            Of state dicts alone the modules have the tensors, and cannot be run.
        split: Patterns that override which parameters are merged.

    Returns:
        The base and its experts, divided into shared parameters and heads.

    Raises:
        IncompatibleExpertsError: One line per problem.
    """
    base, experts = unwrapped("base", base), {name: unwrapped(name, expert) for name, expert in experts.items()}
    classes = [_module_of(model) for model in (base, *experts.values()) if not isinstance(model, Mapping)]
    classes = classes or [tensors_alone("base", _weights(base))]
    tasks: dict[str, Expert] = {}
    notes = [note for source in (base, *experts.values()) if isinstance(source, Checkpoint) for note in source.notes]
    problems: list[str] = []
    for name, expert in experts.items():
        try:
            tasks[name], found = _expert(name, expert, classes)
            notes += found.notes
        except IncompatibleExpertsError as error:
            problems += error.problems
    if problems:
        raise IncompatibleExpertsError(*problems)
    source = base.source if isinstance(base, Checkpoint) else "base"
    matches = _matches_of_base(source, _weights(base), tasks.values())
    names = {name: own for found in matches for name, own in found.names.items()}
    left_out = tuple(n for n in matches[0].unexpected if all(n in found.unexpected for found in matches))
    checkpoint = base if isinstance(base, Checkpoint) else None
    folder = checkpoint.folder if checkpoint else loaded_from(base) if isinstance(base, nn.Module) else None
    together = Experts(Converted(_weights(base), names), tasks, (), (), left_out, checkpoint, folder=folder)
    notes += _class_notes(base, tasks, experts, left_out)
    together = replace(together, notes=tuple(dict.fromkeys([*notes, *matches[0].notes])))
    return divide(together, split or Split(), source=source)


Wrapped = TypeVar("Wrapped", bound=Source)


def unwrapped(name: str, source: Wrapped) -> Wrapped:
    """Return the module inside a wrapper of torch: a compiled one, or one of a data-parallel training.

    Args:
        name: Name of the model in errors.
        source: A module, or another source, which is returned as it is.

    Raises:
        IncompatibleExpertsError: PEFT has put an adapter into the module.

    Example:
        >>> unwrapped("news", nn.DataParallel(nn.Linear(1, 1)))
        Linear(in_features=1, out_features=1, bias=True)
    """
    while isinstance(source, nn.Module):
        inner = source.module if isinstance(source, _PARALLEL) else getattr(source, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        source = cast(Wrapped, inner)
    if isinstance(source, nn.Module) and hasattr(source, "peft_config"):
        raise IncompatibleExpertsError(
            f"{name}: expected a model, found one with an adapter of PEFT in it ({type(source).__name__}). Give the "
            "merged model, model.merge_and_unload(), or the path of the adapter."
        )
    return source


_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def _class_notes(
    base: Source, tasks: Mapping[str, Expert], experts: Mapping[str, Source], left_out: Sequence[str]
) -> Iterator[str]:
    """Say which class a base without one is read as, and state dicts of experts whose class is not the base's."""
    if all(isinstance(source, Mapping) for source in (base, *experts.values())):
        yield from _alone_notes(next(iter(tasks.values())).module, left_out)
        return
    if isinstance(base, Mapping):
        name = next(name for name, expert in experts.items() if not isinstance(expert, Mapping))
        yield Fact(
            f"base: a state dict, which has no class; it is read as {name}'s, {type(tasks[name].module).__name__}."
        )
        return
    for name, expert in experts.items():
        own, of_base = type(tasks[name].module).__name__, _class_of(base)
        if isinstance(expert, Mapping) and own != of_base:
            yield Fact(
                f"{name}: a state dict, which has no class; its tensors fit {own}, and not the base's {of_base}."
            )


def _alone_notes(module: nn.Module, left_out: Sequence[str]) -> Iterator[str]:
    """Say what is merged of state dicts alone, and what is not."""
    yield Fact(
        "base: state dicts alone, which have no class: nothing can be run, and heads are merged as everything else is, "
        "unless parameters.head names them."
    )
    if buffers := [name for name, _ in module.named_buffers()]:
        yield Fact(f"base: {several(buffers)} are read as buffers, which stay the base's.")
    if left_out:
        yield f"base: {several(left_out)} are in no expert, so they are not in the merge."


def _class_of(source: nn.Module | Checkpoint) -> str:
    return source.architecture if isinstance(source, Checkpoint) else type(source).__name__


def _matches_of_base(source: str, weights: Weights, tasks: Iterable[Expert]) -> list[Match]:
    """Match the base's names with those of every expert's class."""
    modules = {(type(expert.module), *_names_alone(expert.module)): expert.module for expert in tasks}
    matches = [match_tensors(source, weights, module) for module in modules.values()]
    apart = [apart_problems(source, *pair) for pair in zip(modules.values(), matches, strict=True)]
    if problems := dict.fromkeys(line for lines in apart for line in lines):
        raise IncompatibleExpertsError(*problems)
    return matches


def _names_alone(module: nn.Module) -> list[str]:
    """List the names of a stand-in for a state dict, which say what its class says of another module."""
    return list(module.state_dict()) if isinstance(module, TensorsAlone) else []


def _expert(name: str, expert: Source, classes: list[nn.Module]) -> tuple[Expert, Match]:
    weights = _weights(expert)
    if isinstance(expert, Mapping):
        module, found = _class_of_state(name, weights, classes)
    else:
        module = _module_of(expert)
        found = match_tensors(name, weights, module)
    renamed = Converted(weights, found.names)
    parameters = [parameter for parameter, _ in module.named_parameters() if parameter in found.names]
    where = "the file" if isinstance(expert, Checkpoint) else "the state dict"
    problems = name_problems(name, where, module, found) + quantised_problems(name, renamed, parameters)
    problems += apart_problems(name, module, found)
    if problems:
        raise IncompatibleExpertsError(*problems)
    if isinstance(expert, Mapping):
        module = in_shapes_of(module, renamed, parameters)
    checkpoint = expert if isinstance(expert, Checkpoint) else None
    return Expert(name, module, renamed, tuple(head_names(module)), "", checkpoint), found


def _class_of_state(name: str, weights: Weights, classes: list[nn.Module]) -> tuple[nn.Module, Match]:
    """Find the class of a state dict: the base's if it fits exactly, else the only one that does.

    Raises:
        IncompatibleExpertsError: Several classes fit exactly, a classifier of rows and one of tokens for example; or
            of state dicts alone only one has a prefix.
    """
    base, *others = classes
    found = match_tensors(name, weights, base)
    if isinstance(base, TensorsAlone):
        if not (found.missing or found.unexpected):
            return tensors_alone(name, Converted(weights, found.names)), found
        check_prefix(name, weights.headers, base.state_dict())
        module = tensors_alone(name, weights)
        return module, match_tensors(name, weights, module)
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
    for mapping in HEADS:
        if architecture := mapping.get(config.model_type):
            with without_records("transformers", logging.WARNING):  # its advice is for users of the class
                module = skeleton(config, architecture)
            shapes = {n: p.shape for n, p in module.named_parameters()}
            own = Converted(weights, match_tensors(name, weights, module).names)
            if all(own.shape(n) == shape for n, shape in shapes.items() if n in own):
                yield module


def _weights(source: Source) -> Weights:
    if isinstance(source, Checkpoint):
        return source.tensors
    return InMemory(source.state_dict() if isinstance(source, nn.Module) else source)


def _module_of(source: nn.Module | Checkpoint) -> nn.Module:
    if isinstance(source, Checkpoint):
        return own_module(source)
    return emptied(source)


def emptied(module: nn.Module) -> nn.Module:
    """Copy a module in eval mode: buffers are copied, parameters are on the meta device, ties are kept."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()
    }
    with parameters_on_meta():
        return copy.deepcopy(module, memo).eval()
