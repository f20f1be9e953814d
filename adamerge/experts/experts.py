"""One base and its named experts, proven compatible once: architecture, shapes, vocabulary, heads."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from adamerge.experts.checkpoint import Checkpoint, match, match_tensors, parameters_on_meta, skeleton
from adamerge.experts.compatibility import (
    config_differences,
    config_problems,
    match_problems,
    name_problems,
    quantised_problems,
)
from adamerge.experts.heads import head_names, parts_of_backbone
from adamerge.experts.model_kind import ModelKind, kind_of
from adamerge.experts.name_patterns import Split
from adamerge.experts.zero_shot import ZeroShot, ZeroShotClassifier, text_head
from adamerge.storage.weights import InMemory, Joined, Renamed, Weights
from adamerge.types import ConfigError, IncompatibleExpertsError


@dataclass(frozen=True, eq=False)
class Expert:
    """One task: a module without weights, and the numbers of the expert that was fine-tuned on it.

    Attributes:
        name: The task.
        module: In eval mode; parameters are on the meta device.
        weights: The expert's numbers under the module's names.
        head: Parameters that stay this expert's own.
        prefix: What stands before those names in `module`, where that is a wrapper round the expert's own module.
        checkpoint: Where they come from, if from disk.
        disk: Name on disk of each parameter, if from disk.
        head_buffers: Stored buffers of the head, running statistics for example, which stay its own too.
    """

    name: str
    module: nn.Module
    weights: Weights
    head: tuple[str, ...]
    prefix: str = ""
    checkpoint: Checkpoint | None = None
    disk: Mapping[str, str] = field(default_factory=dict[str, str])
    head_buffers: tuple[str, ...] = ()

    @cached_property
    def kind(self) -> ModelKind:
        """What the module reads and predicts, decided once."""
        return kind_of(self.module)

    @property
    def whole_head(self) -> tuple[str, ...]:
        """Parameters and buffers of the head."""
        return (*self.head, *self.head_buffers)

    @property
    def source(self) -> str:
        """Where the numbers come from, in words."""
        return self.checkpoint.source if self.checkpoint else self.name

    @property
    def own_module(self) -> nn.Module:
        """The module without a wrapper round it."""
        return self.module.get_submodule(self.prefix.removesuffix("."))


@dataclass(frozen=True, eq=False)
class Experts:
    """A base and its experts; `from_checkpoints` and `from_modules` prove that they belong together.

    Attributes:
        base: The base's numbers under the experts' names.
        tasks: The experts by task, in the order of the columns of the coefficients.
        shared: Parameters that are merged.
        kept: Parameters that stay the base's because a pattern says so.
        left_out: Tensors of the base that no expert has a place for.
        checkpoint: Where the base comes from, if from disk.
        head_of_base: Whether the base has a head of its own that fits, by task.
        warnings: What looks wrong but can be merged.
    """

    base: Weights
    tasks: Mapping[str, Expert]
    shared: tuple[str, ...]
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    head_of_base: Mapping[str, bool] = field(default_factory=dict[str, bool])
    warnings: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, Weights]:
        """Each expert's numbers by task."""
        return {name: expert.weights for name, expert in self.tasks.items()}

    def state_of(self, task: str) -> dict[str, Tensor]:
        """The unmerged expert of a task: its parameters and buffers under its module's names."""
        expert = self.tasks[task]
        return {name: expert.weights[name] for name in expert.weights.headers}


def from_checkpoints(
    base: Checkpoint,
    experts: Mapping[str, Checkpoint],
    split: Split | None = None,
    zero_shot: Mapping[str, ZeroShot] | None = None,
) -> Experts:
    """Bring a base and its experts under one set of names. Reads headers only, except for buffers.

    Args:
        base: The checkpoint that all experts were fine-tuned from.
        experts: The experts by task.
        split: Patterns that overrule which parameters are merged.
        zero_shot: Class names and templates of those tasks whose head is the base's text features.

    Raises:
        IncompatibleExpertsError: With every problem that was found, a line each.
    """
    problems: list[str] = []
    tasks: dict[str, Expert] = {}
    text_side: set[str] = set()
    for name, checkpoint in experts.items():
        try:
            tasks[name], text = _expert(name, base, checkpoint, (zero_shot or {}).get(name))
            text_side |= text
        except (ConfigError, IncompatibleExpertsError) as error:
            problems.append(str(error))
    if tasks:
        try:
            together = _together(base, tasks, split or Split(), text_side)
        except IncompatibleExpertsError as error:
            problems.append(str(error))
        else:
            if not problems:
                return together
    raise IncompatibleExpertsError("\n".join(problems))


def from_modules(
    base: nn.Module,
    experts: Mapping[str, nn.Module | Mapping[str, Tensor]],
    split: Split | None = None,
) -> Experts:
    """The same for modules in memory: `base` and experts of its class, or state dicts for it. None is altered.

    Parameters whose names match `split.head` stay each expert's own; of plain modules no other head can be known.

    Raises:
        IncompatibleExpertsError: With every problem that was found, a line each.
    """
    tasks: dict[str, Expert] = {}
    problems: list[str] = []
    for name, expert in experts.items():
        try:
            tasks[name] = _expert_in_memory(name, base, expert)
        except IncompatibleExpertsError as error:
            problems.append(str(error))
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    return _divide(Experts(InMemory(base.state_dict()), tasks, ()), split or Split(), source="base")


def _expert(name: str, base: Checkpoint, checkpoint: Checkpoint, words: ZeroShot | None) -> tuple[Expert, set[str]]:
    """An expert that fits its own configuration and the base's, and parameters that must stay the base's."""
    if words is not None:
        return _zero_shot_expert(name, base, checkpoint, words)
    problems = config_problems(base, checkpoint)
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    try:
        module = skeleton(checkpoint.config, checkpoint.architecture, trust_remote_code=checkpoint.trust_remote_code)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint.folder}/{error}") from error
    found = match(checkpoint, module)
    problems = match_problems(checkpoint, module, found)
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    weights, head = Renamed(checkpoint.tensors, found.names), tuple(head_names(module))
    return Expert(name, module, weights, head, "", checkpoint, found.names), set()


def _expert_in_memory(name: str, base: nn.Module, expert: nn.Module | Mapping[str, Tensor]) -> Expert:
    module = _emptied(expert if isinstance(expert, nn.Module) else base)
    state = InMemory(expert.state_dict() if isinstance(expert, nn.Module) else expert)
    found = match_tensors(name, state, module)
    weights = Renamed(state, found.names)
    parameters = [parameter for parameter, _ in module.named_parameters() if parameter in found.names]
    problems = name_problems(name, "the state dict", module, found) + quantised_problems(name, weights, parameters)
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    return Expert(name, module, weights, tuple(head_names(module)))


def _together(base: Checkpoint, tasks: Mapping[str, Expert], split: Split, text_side: set[str]) -> Experts:
    """The base under the experts' names, and every parameter divided among them."""
    modules = {type(expert.own_module): expert.own_module for expert in tasks.values()}
    matches = [match(base, module) for module in modules.values()]
    names = {name: disk for found in matches for name, disk in found.names.items()}
    split = Split(split.head, [*split.base, *sorted(text_side & names.keys())], split.shared)
    left_out = tuple(name for name in matches[0].unexpected if all(name in m.unexpected for m in matches))
    together = _divide(Experts(Renamed(base.tensors, names), tasks, (), (), left_out, base), split, source=base.source)
    return replace(together, warnings=tuple(_config_warnings(base, tasks)))


def _config_warnings(base: Checkpoint, tasks: Mapping[str, Expert]) -> Iterator[str]:
    for name, expert in tasks.items():
        differences = config_differences(base, expert.checkpoint) if expert.checkpoint else []
        if differences:
            yield (
                f"{name} ({expert.source}): {'; '.join(differences)}. The same numbers then make another model, so "
                "merged weights may fit neither."
            )


def _zero_shot_expert(name: str, base: Checkpoint, expert: Checkpoint, words: ZeroShot) -> tuple[Expert, set[str]]:
    """A task whose head is text features of the base, and the parameters that make those: they stay the base's.

    An expert may be the vision tower alone; what it lacks is the base's.
    """
    module = skeleton(base.config, base.architecture, trust_remote_code=base.trust_remote_code)
    own = match(base, module)
    problems = name_problems(base.source, "the file", module, replace(own, unexpected=()))
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    head, text_side = text_head(module, Renamed(base.tensors, own.names), base, words)
    weights = Joined(Renamed(expert.tensors, _tower_names(expert, module)), Renamed(base.tensors, own.names))
    problems = quantised_problems(expert.source, weights, [n for n, _ in module.named_parameters()])
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    classifier = ZeroShotClassifier(module, head)
    return Expert(name, classifier, weights, (), ZeroShotClassifier.PREFIX, expert, own.names), text_side


def _tower_names(expert: Checkpoint, module: nn.Module) -> dict[str, str]:
    """Names on disk by the module's names, whether the checkpoint is of the module or of one of its towers."""
    whole = match(expert, module)
    if not whole.unexpected:
        return dict(whole.names)
    for path, tower in module.named_children():
        found = match(expert, tower)
        if not found.unexpected:
            return {f"{path}.{name}": disk for name, disk in found.names.items()}
    raise IncompatibleExpertsError("\n".join(match_problems(expert, module, whole)))


def _divide(experts: Experts, split: Split, source: str) -> Experts:
    """Decide of every parameter whether it is shared, a head or the base's, and check the shared ones' shapes."""
    words = {name: split.word(name) for expert in experts.tasks.values() for name in _parameters(expert)}
    problems = split.problems(tuple(words))
    for expert in experts.tasks.values():
        problems += [p for p in _holes(expert, experts, words, source) if p not in problems]
    heads: dict[str, tuple[str, ...]] = {}
    for expert in experts.tasks.values():
        own = {n for n in _parameters(expert) if words[n] == "head" or (words[n] is None and _own(n, expert, experts))}
        heads[expert.name] = tuple(name for name in _parameters(expert) if name in own)
    everywhere = [n for n in words if all(n in e.weights and n not in heads[e.name] for e in experts.tasks.values())]
    shared = tuple(name for name in everywhere if words[name] != "base")
    for name in everywhere:
        problems += _shape_problems(name, experts, source)
    problems += quantised_problems(source, experts.base, [name for name in everywhere if name in experts.base])
    for expert in experts.tasks.values():
        alone = [n for n in _parameters(expert) if n not in everywhere and n not in heads[expert.name]]
        problems += [
            f"{expert.name}: {n} is a parameter that not all experts share; name it under head." for n in alone
        ]
    if not shared and not problems:
        problems.append(f"{source}: base and experts have no parameter in common that could be merged.")
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    tasks = {name: _with_head(expert, heads[name], experts.base) for name, expert in experts.tasks.items()}
    kept = tuple(name for name in everywhere if words[name] == "base")
    has_head = {n: all(_fits(h, e, experts.base) for h in e.whole_head) for n, e in tasks.items()}
    return replace(experts, tasks=tasks, shared=shared, kept=kept, head_of_base=has_head)


def _holes(expert: Expert, experts: Experts, words: Mapping[str, str | None], source: str) -> list[str]:
    """Parameters that the base should have, but lacks: they must not become heads by accident.

    A part of an expert's backbone (a child of it, a pooler for example) of which the base has nothing is new in the
    expert, and a head. It is a hole in the base if the base has other parameters of that part, or tensors that not
    even its own class has a place for (it may be there under a wrong name).
    """
    parts = parts_of_backbone(expert.own_module)
    known = {part for name, part in parts.items() if name in experts.base}
    lacking = [n for n in parts if n not in experts.base and n not in expert.head and words.get(n) != "head"]
    new = [name for name in lacking if parts[name] not in known]
    strange = _strange(experts) if new else []
    holes = lacking if strange else [name for name in lacking if parts[name] in known]
    beside = strange or list(experts.left_out)
    hint = f" It has {', '.join(beside[:3])}, which has no place: perhaps a wrong name?" if beside else ""
    return [
        f"{source}: the base lacks {name}, which lies inside the backbone.{hint} If it is to stay each expert's own, "
        "name it under parameters.head."
        for name in holes
    ]


def _strange(experts: Experts) -> list[str]:
    """Tensors of the base that neither the experts' classes nor its own have a place for."""
    base = experts.checkpoint
    if base is None or not experts.left_out:
        return []
    own = match(base, skeleton(base.config, base.architecture, trust_remote_code=base.trust_remote_code))
    return [name for name in experts.left_out if name in own.unexpected]


def _parameters(expert: Expert) -> list[str]:
    buffers = {name for name, _ in expert.own_module.named_buffers()}
    return [name for name in expert.weights.headers if name not in buffers]


def _own(name: str, expert: Expert, experts: Experts) -> bool:
    """Whether a parameter is a head by itself: it makes labels, or the base lacks it."""
    return name in expert.head or name not in experts.base


def _fits(name: str, expert: Expert, base: Weights) -> bool:
    return name in base and base.shape(name) == expert.weights.shape(name)


def _with_head(expert: Expert, head: tuple[str, ...], base: Weights) -> Expert:
    """The expert with its head decided, and the base's persistent buffers in its module."""
    for name, buffer in expert.own_module.named_buffers():
        if name in base and base.shape(name) == buffer.shape:
            buffer.copy_(base[name])
    return replace(expert, head=head, head_buffers=tuple(_buffers_of_head(expert, frozenset(head))))


def _buffers_of_head(expert: Expert, head: frozenset[str]) -> Iterator[str]:
    """Stored buffers of which the nearest module around that has parameters has none but the head's."""
    for name, _ in expert.own_module.named_buffers():
        path, around = name, set[str]()
        while path and not around:
            path = path.rpartition(".")[0]
            around = {n for n, _ in expert.own_module.get_submodule(path).named_parameters(prefix=path)}
        if name in expert.weights and around and around <= head:
            yield name


def _shape_problems(name: str, experts: Experts, source: str) -> list[str]:
    if name not in experts.base:
        return [f"{source}: the base lacks {name}, which is to be merged."]
    expected = tuple(experts.base.shape(name))
    return [
        f"{expert.source}: {name} has the shape "
        f"{tuple(expert.weights.shape(name))}, but {expected} in the base {source}."
        for expert in experts.tasks.values()
        if tuple(expert.weights.shape(name)) != expected
    ]


def _emptied(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode: own buffers, parameters on the meta device, ties kept."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()
    }
    with parameters_on_meta():
        return copy.deepcopy(module, memo).eval()
