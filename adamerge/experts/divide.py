"""Division of all parameters into shared, head and base's own, with every problem by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from adamerge.experts.compatibility import config_differences, quantised_problems, unmerged_problems
from adamerge.experts.config_file import file_of
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.heads import parts_of_backbone, path_of_backbone
from adamerge.experts.match_names import match
from adamerge.experts.name_patterns import Split, several
from adamerge.experts.own_class import dispensable, of_base
from adamerge.experts.skeleton import skeleton
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError

_ONE_BY_ONE = 3
"""Number of parameters that the base lacks that get a line each."""


def divide(experts: Experts, split: Split, source: str) -> Experts:
    """Decide for every parameter whether it is shared, part of a head or kept from the base, and check the shapes.

    Args:
        experts: Base and experts under one set of names, not divided yet.
        split: Patterns that override the decision.
        source: Name of the base in messages.

    Returns:
        The experts with shared parameters, heads and kept parameters.

    Raises:
        IncompatibleExpertsError: One line per problem.
    """
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
    problems += _without_place(experts, shared)
    for expert in experts.tasks.values():
        alone = [n for n in _parameters(expert) if n not in everywhere and n not in heads[expert.name]]
        if alone:
            what, them = ("parameters", "them") if len(alone) > 1 else ("parameter", "it")
            problems.append(
                f"{expert.name}: expected every expert to have the {what} {several(alone)}, but some lack {them}; add "
                f"{them} to parameters.head, or take experts of one class."
            )
    if not shared and not problems:
        problems.append(
            f"{source}: expected parameters that base and experts share, found none. Check that the experts were "
            "fine-tuned from this base, and the patterns under parameters."
        )
    if problems:
        raise IncompatibleExpertsError(*problems)
    tasks = {name: with_head(expert, heads[name], experts.base) for name, expert in experts.tasks.items()}
    kept = tuple(name for name in everywhere if words[name] == "base")
    has_head = {n: all(_fits(h, e, experts.base) for h in e.whole_head) for n, e in tasks.items()}
    return replace(experts, tasks=tasks, shared=shared, kept=kept, head_of_base=has_head)


def _holes(expert: Expert, experts: Experts, words: Mapping[str, str | None], source: str) -> list[str]:
    """List parameters that the base should have but lacks; they must not become heads by mistake.

    If the base has no parameter of a part of an expert's backbone (a child module, for example a pooler), the part is
    new in the expert and becomes a head. A parameter is missing in the base if the base has other parameters of the
    part, if its own class has the parameter, or if it has tensors that even its own class has no place for (the
    parameter may have a wrong name there).
    """
    parts = parts_of_backbone(expert.own_module)
    known = {part for name, part in parts.items() if name in experts.base}
    lacking = [n for n in parts if n not in experts.base and n not in expert.head and words.get(n) != "head"]
    new = [name for name in lacking if parts[name] not in known]
    strange, own = _own_class(experts) if new else ([], set[str]())
    start = path_of_backbone(expert.own_module)
    holes = [n for n in lacking if strange or parts[n] in known or n.removeprefix(start) in own]
    beside = strange or list(experts.left_out)
    if holes and (unmerged := _unmerged(experts, beside, source)):
        return unmerged
    hint = f" It has {', '.join(beside[:3])}, which has no place in the model: check the names." if beside else ""
    shown = holes if len(holes) <= _ONE_BY_ONE else [several(holes)]
    return [
        f"{source}: the base lacks {name}, which is inside the backbone.{hint} To keep each expert's own, add it to "
        "parameters.head."
        for name in shown
    ]


def _unmerged(experts: Experts, beside: Sequence[str], source: str) -> list[str]:
    """Say that the base was saved while PEFT wrapped it, if tensors that have no place say so."""
    base = experts.checkpoint
    where, what = ("the file", type(of_base(base)).__name__) if base else ("the state dict", "model without adapter")
    return unmerged_problems(source, where, what, beside)


def _own_class(experts: Experts) -> tuple[list[str], set[str]]:
    """Compare the base with its own class.

    Returns:
        Tensors for which neither the experts' classes nor its own class have a place, and all parameters of its own
        backbone that its class cannot do without.
    """
    base = experts.checkpoint
    if base is None:
        return [], set()
    module = of_base(base)
    unexpected = match(base, module).unexpected if experts.left_out else ()
    start, needed = path_of_backbone(module), parts_of_backbone(module).keys() - dispensable(module)
    return [n for n in experts.left_out if n in unexpected], {name.removeprefix(start) for name in needed}


def _without_place(experts: Experts, shared: Sequence[str]) -> Iterator[str]:
    """Yield a line per class whose module by the base's config.json, as a merge is loaded, lacks shared parameters."""
    base = experts.checkpoint
    if base is None or not match(base, of_base(base)).unexpected:
        return
    own = {type(expert.own_module).__name__: expert for expert in experts.tasks.values() if not expert.prefix}
    for architecture, expert in own.items():
        described = skeleton(base.config, architecture, trust_remote_code=base.trust_remote_code).state_dict()
        lost = [name for name in shared if name not in described]
        if lost and expert.checkpoint:
            differences = "; ".join(config_differences(base, expert.checkpoint))
            yield (
                f"{file_of(base.config)}: describes a {architecture} without {several(lost)}, which the files beside "
                f"it and the experts have{f' ({differences})' if differences else ''}. Correct it, or copy or download "
                "it again."
            )


def _parameters(expert: Expert) -> list[str]:
    buffers = {name for name, _ in expert.own_module.named_buffers()}
    return [name for name in expert.weights.headers if name not in buffers]


def _own(name: str, expert: Expert, experts: Experts) -> bool:
    """Return whether a parameter is part of a head without a pattern: it outputs labels, or the base lacks it."""
    return name in expert.head or name not in experts.base


def _fits(name: str, expert: Expert, base: Weights) -> bool:
    return name in base and base.shape(name) == expert.weights.shape(name)


def with_head(expert: Expert, head: tuple[str, ...], base: Weights) -> Expert:
    """Set an expert's head, and copy the base's persistent buffers to its module.

    Args:
        expert: The expert.
        head: Parameters that are not merged.
        base: The base's weights.
    """
    for name, buffer in expert.own_module.named_buffers():
        if name in base and base.shape(name) == buffer.shape:
            buffer.copy_(base[name])
    return replace(expert, head=head, head_buffers=tuple(_buffers_of_head(expert, frozenset(head))))


def _buffers_of_head(expert: Expert, head: frozenset[str]) -> Iterator[str]:
    """Yield stored buffers whose nearest enclosing module with parameters has only parameters of the head."""
    for name, _ in expert.own_module.named_buffers():
        path, around = name, set[str]()
        while path and not around:
            path = path.rpartition(".")[0]
            around = {n for n, _ in expert.own_module.get_submodule(path).named_parameters(prefix=path)}
        if name in expert.weights and around and around <= head:
            yield name


def _shape_problems(name: str, experts: Experts, source: str) -> list[str]:
    if name not in experts.base:
        return [
            f"{source}: the base lacks {name}, which is to be merged. To keep each expert's own, add it to "
            "parameters.head."
        ]
    expected = tuple(experts.base.shape(name))
    return [
        f"{expert.source}: {name} has the shape "
        f"{tuple(expert.weights.shape(name))}, but {expected} in the base ({source}). To keep each expert's own, add "
        "it to parameters.head."
        for expert in experts.tasks.values()
        if tuple(expert.weights.shape(name)) != expected
    ]
