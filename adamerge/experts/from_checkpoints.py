"""Base and experts from disk or the hub under one set of names."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import nn

from adamerge.experts.checkpoint import Checkpoint, skeleton
from adamerge.experts.compatibility import (
    config_differences,
    config_problems,
    match_problems,
    name_problems,
    quantised_problems,
)
from adamerge.experts.divide import divide
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.heads import head_names
from adamerge.experts.low_rank import Adapted
from adamerge.experts.match_names import match
from adamerge.experts.name_patterns import Split
from adamerge.experts.zero_shot import ZeroShot, ZeroShotClassifier, text_head
from adamerge.storage.weights import Joined, Renamed
from adamerge.types import ConfigError, IncompatibleExpertsError


def from_checkpoints(
    base: Checkpoint,
    experts: Mapping[str, Checkpoint],
    split: Split | None = None,
    zero_shot: Mapping[str, ZeroShot] | None = None,
) -> Experts:
    """Match a base and its experts under one set of names; only headers and buffers are read.

    Args:
        base: The checkpoint that all experts were fine-tuned from.
        experts: The experts by task.
        split: Patterns that override which parameters are merged.
        zero_shot: Class names and templates of the tasks whose head is the base's text features.

    Returns:
        The base and its experts, divided into shared parameters and heads.

    Raises:
        IncompatibleExpertsError: One line per problem.
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


def _expert(name: str, base: Checkpoint, checkpoint: Checkpoint, words: ZeroShot | None) -> tuple[Expert, set[str]]:
    """Open an expert that fits its own configuration and the base's; also return parameters to keep from the base."""
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
    own = checkpoint.tensors
    weights = own if isinstance(own, Adapted) else Renamed(own, found.names)  # an adapter's names are the module's
    disk = {**found.names, **match(base, module).names} if isinstance(own, Adapted) else found.names
    return Expert(name, module, weights, tuple(head_names(module)), "", checkpoint, disk), set()


def _together(base: Checkpoint, tasks: Mapping[str, Expert], split: Split, text_side: set[str]) -> Experts:
    """Match the base's names with the experts' and divide the parameters."""
    modules = {type(expert.own_module): expert.own_module for expert in tasks.values()}
    matches = [match(base, module) for module in modules.values()]
    names = {name: disk for found in matches for name, disk in found.names.items()}
    split = Split(split.head, [*split.base, *sorted(text_side & names.keys())], split.shared)
    left_out = tuple(name for name in matches[0].unexpected if all(name in m.unexpected for m in matches))
    together = divide(Experts(Renamed(base.tensors, names), tasks, (), (), left_out, base), split, source=base.source)
    return replace(together, warnings=tuple(_config_warnings(base, tasks)), notes=tuple(_notes(tasks)))


def _notes(tasks: Mapping[str, Expert]) -> Iterator[str]:
    return (
        f"{name}: {note}" for name, expert in tasks.items() if expert.checkpoint for note in expert.checkpoint.notes
    )


def _config_warnings(base: Checkpoint, tasks: Mapping[str, Expert]) -> Iterator[str]:
    for name, expert in tasks.items():
        differences = config_differences(base, expert.checkpoint) if expert.checkpoint else []
        if differences:
            yield (
                f"{name} ({expert.source}): {'; '.join(differences)}. The same weights then compute something else, so "
                "merged weights may fit neither model. Use an expert with the base's configuration."
            )


def _zero_shot_expert(name: str, base: Checkpoint, expert: Checkpoint, words: ZeroShot) -> tuple[Expert, set[str]]:
    """Make a task whose head is text features of the base; also return the parameters that compute them, to keep them.

    An expert may be the vision tower alone; the base provides the rest.
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
    """Map the module's names to names on disk; the checkpoint is of the module or of one of its towers."""
    whole = match(expert, module)
    if not whole.unexpected:
        return dict(whole.names)
    for path, tower in module.named_children():
        found = match(expert, tower)
        if not found.unexpected:
            return {f"{path}.{name}": disk for name, disk in found.names.items()}
    raise IncompatibleExpertsError("\n".join(match_problems(expert, module, whole)))
