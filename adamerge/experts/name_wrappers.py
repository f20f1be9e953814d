"""Names of tensors without what wrappers of a module added to them: a prefix, or words within."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from adamerge.experts.conversion import Places, places
from adamerge.storage.weights import Renamed, Weights

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Words that torch.compile, FSDP, activation checkpointing and data parallelism put before what they wrap."""

Shorter: TypeAlias = Mapping[str, str]
"""The file's own name by shorter name."""


def places_without_wrappers(module: nn.Module, names: Sequence[str]) -> tuple[Places, list[str]]:
    """Find the places of all tensors, where needed without what wrappers added to their names.

    Args:
        module: The module that the tensors should fit.
        names: Names of all tensors of the file.

    Returns:
        The places, by the names in the file, and what was removed, in words.
    """
    original: Shorter = {name: name for name in names}
    found, lines = places(module, names), list[str]()
    for remove in (_prefix, _words, _usual_prefix):
        if found.without:
            shorter, line = remove(module, original, found)
            other = places(module, list(shorter))
            if len(shorter) == len(original) and len(other.without) < len(found.without):
                found, original = other, shorter
                lines.append(line)
    return found.named(original), lines


def _prefix(module: nn.Module, names: Shorter, found: Places) -> tuple[Shorter, str]:
    """Remove a prefix that all names share, if no name has a place with it."""
    prefix = _removable(module, names, found, len(names))
    return _cut(names, prefix), f"every name begins with {prefix}, which a wrapper added; it is removed."


def _usual_prefix(module: nn.Module, names: Shorter, found: Places) -> tuple[Shorter, str]:
    """Remove a prefix that most names share, as of a trainer's module that holds the model beside a loss."""
    prefix = _removable(module, names, found, len(names) // 2)
    count = sum(name.startswith(prefix) for name in names)
    return _cut(names, prefix), (
        f"{count} of {len(names)} names begin with {prefix}, which a wrapper added; it is removed from these."
    )


def _words(module: nn.Module, names: Shorter, found: Places) -> tuple[Shorter, str]:
    """Remove words of wrappers wherever they are, unless the module has them itself."""
    words = _words_in(names).intersection(WRAPPERS) - _words_in(module.state_dict())
    return _without(words, names), f"names hold {', '.join(sorted(words))}, which a wrapper added; it is removed."


def adapter_without_wrappers(source: str, tensors: Weights, base: Iterable[str]) -> tuple[Weights, tuple[str, ...]]:
    """Remove words of wrappers from the names of an adapter's tensors, unless the base has such words itself.

    Args:
        source: Name of the adapter in messages.
        tensors: Its tensors.
        base: Names of the base's tensors.

    Returns:
        The tensors, and what was removed, in words.
    """
    words = _words_in(tensors.headers).intersection(WRAPPERS) - _words_in(base)
    shorter = _without(words, {name: name for name in tensors.headers})
    if not words or len(shorter) < len(tensors.headers):  # two tensors would have one name
        return tensors, ()
    note = f"{source}: names of its tensors hold {', '.join(sorted(words))}, which a wrapper added; it is removed."
    return Renamed(tensors, shorter), (note,)


def _words_in(names: Iterable[str]) -> set[str]:
    return {word for name in names for word in name.split(".")}


def _without(words: Collection[str], names: Shorter) -> Shorter:
    return {".".join(word for word in name.split(".") if word not in words): disk for name, disk in names.items()}


def _removable(module: nn.Module, names: Iterable[str], found: Places, least: int) -> str:
    """Return the prefix of at least so many names without which some have a place; empty if there is none."""
    prefix, rest = "", list(names)
    while not (found.names or found.made):
        words = Counter(name.partition(".")[0] for name in rest if "." in name)
        word, count = words.most_common(1)[0] if words else ("", 0)
        if count < max(least, 1):
            return ""
        prefix, rest = f"{prefix}{word}.", [name[len(word) + 1 :] for name in rest if name.startswith(f"{word}.")]
        found = places(module, rest)
    return prefix


def _cut(names: Shorter, prefix: str) -> Shorter:
    return {name.removeprefix(prefix): disk for name, disk in names.items()}
