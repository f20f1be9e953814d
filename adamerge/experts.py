"""One base and its named experts, proven compatible once: architecture, shapes, vocabulary, heads."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from adamerge.checkpoint import Checkpoint, Match, match, parameters_on_meta, quantised, skeleton, tied_names
from adamerge.heads import head_names
from adamerge.types import ConfigError, IncompatibleExpertsError
from adamerge.weights import InMemory, Joined, Renamed, Weights
from adamerge.zero_shot import ZeroShot, ZeroShotClassifier, text_head


@dataclass(frozen=True)
class Split:
    """Patterns (`*` and `?` as in a shell) that overrule which parameters are merged; the first that matches counts.

    Attributes:
        head: Stay each expert's own.
        base: Stay the base's.
        shared: Are merged, though they would pass for a head.
    """

    head: Sequence[str] = ()
    base: Sequence[str] = ()
    shared: Sequence[str] = ()

    def word(self, name: str) -> str | None:
        """Which of the three lists a parameter's name is on, if on any."""
        for word, patterns in (("head", self.head), ("base", self.base), ("shared", self.shared)):
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return word
        return None


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
    """

    name: str
    module: nn.Module
    weights: Weights
    head: tuple[str, ...]
    prefix: str = ""
    checkpoint: Checkpoint | None = None
    disk: Mapping[str, str] = field(default_factory=dict[str, str])

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
    """

    base: Weights
    tasks: Mapping[str, Expert]
    shared: tuple[str, ...]
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    head_of_base: Mapping[str, bool] = field(default_factory=dict[str, bool])

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
    for name, expert in experts.items():
        module = _emptied(expert if isinstance(expert, nn.Module) else base)
        state = dict(expert.state_dict() if isinstance(expert, nn.Module) else expert)
        kept = [aliases[0] for aliases in tied_names(module)] + [n for n, _ in module.named_buffers()]
        lacking = [n for n, _ in module.named_parameters() if n not in state]
        if lacking:
            raise IncompatibleExpertsError(f"{name}: the state dict lacks {', '.join(lacking)}.")
        weights = InMemory({n: state[n] for n in kept if n in state})
        tasks[name] = Expert(name, module, weights, tuple(head_names(module)))
    return _divide(Experts(InMemory(base.state_dict()), tasks, ()), split or Split(), source="base")


def _expert(name: str, base: Checkpoint, checkpoint: Checkpoint, words: ZeroShot | None) -> tuple[Expert, set[str]]:
    """An expert that fits its own configuration and the base's, and parameters that must stay the base's."""
    if words is not None:
        return _zero_shot_expert(name, base, checkpoint, words)
    problems = _config_problems(base, checkpoint)
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    try:
        module = skeleton(checkpoint.config, checkpoint.architecture, trust_remote_code=checkpoint.trust_remote_code)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint.folder}/{error}") from error
    found = match(checkpoint, module)
    problems = _match_problems(checkpoint, module, found)
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    weights, head = Renamed(checkpoint.tensors, found.names), tuple(head_names(module))
    return Expert(name, module, weights, head, "", checkpoint, found.names), set()


def _together(base: Checkpoint, tasks: Mapping[str, Expert], split: Split, text_side: set[str]) -> Experts:
    """The base under the experts' names, and every parameter divided among them."""
    split = Split(split.head, [*split.base, *sorted(text_side)], split.shared)
    modules = {type(expert.own_module): expert.own_module for expert in tasks.values()}
    matches = [match(base, module) for module in modules.values()]
    names = {name: disk for found in matches for name, disk in found.names.items()}
    left_out = tuple(name for name in matches[0].unexpected if all(name in m.unexpected for m in matches))
    return _divide(Experts(Renamed(base.tensors, names), tasks, (), (), left_out, base), split, source=base.source)


def _zero_shot_expert(name: str, base: Checkpoint, expert: Checkpoint, words: ZeroShot) -> tuple[Expert, set[str]]:
    """A task whose head is text features of the base, and the parameters that make those: they stay the base's.

    An expert may be the vision tower alone; what it lacks is the base's.
    """
    module = skeleton(base.config, base.architecture, trust_remote_code=base.trust_remote_code)
    own = match(base, module)
    head, text_side = text_head(module, Renamed(base.tensors, own.names), base, words)
    weights = Joined(Renamed(expert.tensors, _tower_names(expert, module)), Renamed(base.tensors, own.names))
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
    raise IncompatibleExpertsError("\n".join(_match_problems(expert, module, whole)))


def _divide(experts: Experts, split: Split, source: str) -> Experts:
    """Decide of every parameter whether it is shared, a head or the base's, and check the shared ones' shapes."""
    problems: list[str] = []
    words = {name: split.word(name) for expert in experts.tasks.values() for name in _parameters(expert)}
    heads: dict[str, tuple[str, ...]] = {}
    for expert in experts.tasks.values():
        own = {n for n in _parameters(expert) if words[n] == "head" or (words[n] is None and _own(n, expert, experts))}
        heads[expert.name] = tuple(name for name in _parameters(expert) if name in own)
    everywhere = [n for n in words if all(n in e.weights and n not in heads[e.name] for e in experts.tasks.values())]
    shared = tuple(name for name in everywhere if words[name] != "base")
    for name in everywhere:
        problems += _shape_problems(name, experts, source)
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
    has_head = {n: all(_fits(h, e, experts.base) for h in e.head) for n, e in tasks.items()}
    return Experts(experts.base, tasks, shared, kept, experts.left_out, experts.checkpoint, has_head)


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
    return Expert(expert.name, expert.module, expert.weights, head, expert.prefix, expert.checkpoint, expert.disk)


def _config_problems(base: Checkpoint, expert: Checkpoint) -> list[str]:
    """What two configurations say of why two checkpoints cannot belong together."""
    source, problems = expert.source, list[str]()
    if expert.config.model_type != base.config.model_type:
        kinds = f"{expert.config.model_type}, but the base {base.source} is a {base.config.model_type}"
        return [f"{source}: the expert is a {kinds}. Experts must be fine-tuned from this base."]
    for key, what in (("vocab_size", "vocabularies"), ("tie_word_embeddings", "the tying of embeddings")):
        here, there = (getattr(c.config.get_text_config(), key, None) for c in (expert, base))
        if here != there:
            problems.append(f"{source}: {what} differ: {key} is {here} here and {there} in the base {base.source}.")
    return problems


def _match_problems(checkpoint: Checkpoint, module: nn.Module, found: Match) -> list[str]:
    what, source = type(module).__name__, checkpoint.source
    problems = [f"{source}: the file has no tensor for {name} of {what}." for name in found.missing]
    problems += [f"{source}: {what} has no place for the tensor {name} in the file." for name in found.unexpected]
    parameters = [name for name, _ in module.named_parameters() if name in found.names]
    headers = {name: checkpoint.tensors.headers[found.names[name]] for name in parameters}
    problems += [
        f"{source}: {name} is quantised ({headers[name].dtype}); use the checkpoint from before quantisation."
        for name in quantised(headers, parameters)
    ]
    for name, parameter in module.named_parameters():
        if name in headers and headers[name].shape != parameter.shape:
            shapes = f"{tuple(headers[name].shape)} in the file but {tuple(parameter.shape)} by config.json"
            problems.append(f"{source}: {name} has the shape {shapes}.")
    return problems


def _shape_problems(name: str, experts: Experts, source: str) -> list[str]:
    if name not in experts.base:
        return [f"{source}: the base lacks {name}, which is to be merged."]
    expected = tuple(experts.base.shape(name))
    return [
        f"{expert.checkpoint.source if expert.checkpoint else expert.name}: {name} has the shape "
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
