"""Base and experts from disk or the hub under one set of names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.compatibility import (
    config_differences,
    config_problems,
    match_problems,
    name_problems,
    quantised_problems,
    shape_problems,
)
from adamerge.experts.conversion import Converted, Origin
from adamerge.experts.divide import divide
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.heads import head_names
from adamerge.experts.low_rank import Adapted
from adamerge.experts.match_names import Match, fill_tied, match
from adamerge.experts.name_patterns import Split, several
from adamerge.experts.own_class import of_base, own_module
from adamerge.experts.shared_settings import own_sizes, shared_settings
from adamerge.experts.tied import possible_ties, says_tied, tied_names, untie
from adamerge.experts.zero_shot import ZeroShot, ZeroShotClassifier, text_head
from adamerge.storage.weights import Joined, Weights
from adamerge.types import ConfigError, Fact, IncompatibleExpertsError


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
    opened: dict[str, _Opened] = {}
    modules = _Modules(base)
    for name, checkpoint in experts.items():
        words, own = (zero_shot or {}).get(name), bool(split and split.head)
        try:
            opened[name] = _open(name, base, checkpoint, words, modules, own=own)
        except (ConfigError, IncompatibleExpertsError) as error:
            problems += error.problems
    if opened:
        try:
            together = _together(base, opened, split or Split())
        except IncompatibleExpertsError as error:
            problems += error.problems
        else:
            if not problems:
                return together
    raise IncompatibleExpertsError(*problems)


class _Modules:
    """Builds the modules of experts; those of one class and configuration share one: it takes 1 MB for 300 layers."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._shared: dict[str, tuple[nn.Module, tuple[str, ...]]] = {}

    def of(self, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
        """Return the module of a checkpoint, and the names of its head."""
        named = isinstance(checkpoint.tensors, Adapted) or getattr(checkpoint.config, "architectures", None)
        if not named or checkpoint.trust_remote_code:
            return self._built(checkpoint)
        key = checkpoint.config.to_json_string()
        if key not in self._shared:
            self._shared[key] = self._built(checkpoint)
        return self._shared[key]

    def _built(self, checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
        module = own_module(checkpoint, self._base)
        return module, tuple(head_names(module))


class _Opened(NamedTuple):
    """An expert that fits its own configuration and the base's.

    Attributes:
        expert: The expert.
        text_side: Parameters to keep from the base.
        apart: Names of tied parameters that its files have apart.
        notes: What was read otherwise than the user may think.
    """

    expert: Expert
    text_side: set[str]
    apart: tuple[str, ...]
    notes: tuple[str, ...]


def _open(
    name: str, base: Checkpoint, checkpoint: Checkpoint, words: ZeroShot | None, modules: _Modules, *, own: bool
) -> _Opened:
    if words is not None:
        return _zero_shot_expert(name, base, checkpoint, words)
    problems = config_problems(base, checkpoint, own_embeddings=own)
    if problems:
        raise IncompatibleExpertsError(*problems)
    module, head = modules.of(checkpoint)
    found = fill_tied(checkpoint.source, match(checkpoint, module), module)
    found = _without_equals(found, checkpoint, base)
    problems = match_problems(checkpoint, module, found)
    if problems:
        raise IncompatibleExpertsError(*problems)
    notes = (*_class_note(checkpoint, module), *found.notes)
    return _Opened(_expert(name, checkpoint, module, head, found), set(), found.apart, notes)


def _class_note(checkpoint: Checkpoint, module: nn.Module) -> Iterator[str]:
    if not getattr(checkpoint.config, "architectures", None) and not isinstance(checkpoint.tensors, Adapted):
        yield Fact(
            f"{checkpoint.source}: config.json names no class (architectures): it is read as "
            f"{type(module).__name__}, which its tensors fit."
        )


def _without_equals(found: Match, checkpoint: Checkpoint, base: Checkpoint) -> Match:
    """Pass over tensors without a place that equal the base's of the same name: a mask, say; nothing was learned."""
    mine, theirs = checkpoint.tensors, base.tensors
    alike = [n for n in found.unexpected if n in theirs and mine.headers[n] == theirs.headers[n]]
    equal = {n for n in alike if torch.equal(mine[n], theirs[n])}
    if not equal:
        return found
    shown = several(sorted(equal))
    note = (
        f"{checkpoint.source}: {shown} have no place in the model, but equal the base's, so nothing of them is merged."
    )
    left = tuple(name for name in found.unexpected if name not in equal)
    return replace(found, unexpected=left, notes=(*found.notes, note))


def _expert(name: str, checkpoint: Checkpoint, module: nn.Module, head: tuple[str, ...], found: Match) -> Expert:
    own = checkpoint.tensors
    weights = own if isinstance(own, Adapted) else Converted(own, found.names)  # an adapter's names are the module's
    return Expert(name, module, weights, head, "", checkpoint)


def _together(base: Checkpoint, opened: Mapping[str, _Opened], split: Split) -> Experts:
    """Match the base's names with the experts' and divide the parameters."""
    own = of_base(base)
    of_own = fill_tied(base.source, match(base, own), own)
    if problems := shape_problems(base, own, of_own):
        raise IncompatibleExpertsError(*problems)
    apart = _apart([own, *(o.expert.own_module for o in opened.values())]) | set(of_own.apart)
    apart |= {name for one in opened.values() for name in one.apart}
    tasks = {name: _untied(one.expert, apart) for name, one in opened.items()}
    modules = {type(expert.own_module): expert.own_module for expert in tasks.values()}
    tied = says_tied(own) or len(of_own.names) > len(match(base, own).names)
    matches = [_match_base(base, module, tied) for module in modules.values()]
    names = {name: disk for found in matches for name, disk in found.names.items()}
    text_side = {name for one in opened.values() for name in one.text_side}
    split = Split(split.head, [*split.base, *sorted(text_side & names.keys())], split.shared)
    together = Experts(
        Converted(base.tensors, names),
        tasks,
        (),
        (),
        _left_out(matches, of_own),
        base,
        lacking=of_own.missing,
        folder=base.folder,
    )
    together = divide(together, split, source=base.source)
    notes = [*base.notes, *of_own.notes, *_ties_note(apart, names), *_lacking_note(base, own, of_own)]
    notes += [note for one in opened.values() for note in _notes_of(one)]
    return replace(together, warnings=tuple(_config_warnings(base, tasks)), notes=tuple(dict.fromkeys(notes)))


def _notes_of(one: _Opened) -> tuple[str, ...]:
    checkpoint = one.expert.checkpoint
    if checkpoint is not None and isinstance(checkpoint.tensors, Adapted):
        return (*(type(note)(f"{one.expert.name}: {note}") for note in checkpoint.notes), *one.notes)
    return (*(checkpoint.notes if checkpoint else ()), *one.notes)


def _match_base(base: Checkpoint, module: nn.Module, tied: bool) -> Match:
    found = match(base, module)
    return fill_tied(base.source, found, module) if tied else found


def _left_out(matches: Sequence[Match], own: Match) -> tuple[str, ...]:
    """List the tensors of the base that no expert has a place for, without those that its own class passes over."""
    without = [{*found.unexpected, *found.passed_over} for found in matches]
    first = (*matches[0].unexpected, *matches[0].passed_over)
    return tuple(n for n in first if all(n in names for names in without) and n not in own.passed_over)


def _apart(modules: Sequence[nn.Module]) -> set[str]:
    """List the names of parameters that are tied in some modules, and parameters of their own in others."""
    ties = [tied_names(module) for module in modules]
    alone = {aliases[0] for groups in ties for aliases in groups}
    return alone & {name for groups in ties for aliases in groups for name in aliases[1:]}


def _untied(expert: Expert, apart: set[str]) -> Expert:
    """Give an expert parameters of their own under some names of tied ones, with the values that both share."""
    checkpoint, module, weights = expert.checkpoint, expert.own_module, expert.weights
    if checkpoint is None or expert.prefix or not apart:
        return expert
    untie(module, apart)
    if isinstance(weights, Adapted):
        return replace(expert, weights=weights.with_copies(_copies(module, weights, apart)))
    found = fill_tied(checkpoint.source, match(checkpoint, module), module)
    return _expert(expert.name, checkpoint, module, tuple(head_names(module)), found)


def _copies(module: nn.Module, weights: Weights, apart: set[str]) -> dict[str, str]:
    """Map names of tied parameters that an adapter's model lacks, since its base ties them, to those that it has."""
    own = dict(module.named_parameters())
    names = {n: a for aliases in possible_ties(module) for n in aliases for a in aliases if a in weights}
    return {name: alias for name, alias in names.items() if name in apart & own.keys() and name not in weights}


def _ties_note(apart: set[str], names: Mapping[str, object]) -> Iterator[str]:
    shown = sorted(apart & names.keys())
    if shown:
        yield (
            f"{several(shown)}: tied to other embeddings by config.json (tie_word_embeddings), but not in all files. "
            "They are merged as parameters of their own, as transformers loads them; the merged config.json has "
            "tie_word_embeddings: false, except in encoder-decoders, where the key means something else too."
        )


def _lacking_note(base: Checkpoint, own: nn.Module, found: Match) -> Iterator[str]:
    if found.missing:
        yield (
            f"{base.source}: the base lacks {several(found.missing)} of its own class {type(own).__name__}; "
            "transformers initialises them at random. The merged folder lacks them too; each task's has its own head."
        )


def _config_warnings(base: Checkpoint, tasks: Mapping[str, Expert]) -> Iterator[str]:
    shared = shared_settings(base, tasks)
    for name, expert in tasks.items():
        own = expert.checkpoint
        differences = config_differences(base, own, {*shared, *own_sizes(base, own)}) if own else []
        if differences:
            yield (
                f"{name} ({expert.source}): {'; '.join(differences)}. The same weights then compute something else, so "
                "merged weights may fit neither model; the merged config.json has the base's. Use an expert with the "
                "base's configuration."
            )


def _zero_shot_expert(name: str, base: Checkpoint, expert: Checkpoint, words: ZeroShot) -> _Opened:
    """Make a task whose head is text features of the base; the parameters that compute them are kept from the base.

    An expert may be the vision tower alone; the base provides the rest.
    """
    module = own_module(base)
    own = match(base, module)
    problems = name_problems(base.source, "the file", module, replace(own, unexpected=()))
    if problems:
        raise IncompatibleExpertsError(*problems)
    weights_of_base = Converted(base.tensors, own.names)
    head, text_side = text_head(module, weights_of_base, base, words)
    names, notes = _tower_names(expert, module)
    weights = Joined(Converted(expert.tensors, names), weights_of_base)
    problems = quantised_problems(expert.source, weights, [n for n, _ in module.named_parameters()])
    if problems:
        raise IncompatibleExpertsError(*problems)
    classifier = ZeroShotClassifier(module, head)
    return _Opened(Expert(name, classifier, weights, (), ZeroShotClassifier.PREFIX, expert), text_side, (), notes)


def _tower_names(expert: Checkpoint, module: nn.Module) -> tuple[dict[str, Origin], tuple[str, ...]]:
    """Map the module's names to names on disk, with notes; the checkpoint is of the module or of one of its towers."""
    whole = match(expert, module)
    if not whole.unexpected:
        return dict(whole.names), whole.notes
    for path, tower in module.named_children():
        found = match(expert, tower)
        if not found.unexpected:
            inside = {n: d if isinstance(d, str) else replace(d, path=f"{path}.") for n, d in found.names.items()}
            return {f"{path}.{name}": disk for name, disk in inside.items()}, found.notes
    raise IncompatibleExpertsError(*match_problems(expert, module, whole))
