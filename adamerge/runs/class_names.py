"""Classes that a configuration may name: what is known, how one is found, and how it is written."""

import difflib
import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module

from adamerge.optim import SearchingOptimizer


def known_classes(kind: type) -> dict[str, type]:
    """Classes of a kind that can be made, by name.

    Example:
        >>> from adamerge.optim.feasible_sets import FeasibleSet
        >>> sorted(known_classes(FeasibleSet))
        ['Box', 'Simplex', 'Unbounded']
    """
    return {cls.__name__: cls for cls in [*_below(kind)] or [kind] if not inspect.isabstract(cls)}


def find_class(kinds: Sequence[type], name: str) -> type | None:
    """The class of one of these kinds with this name or import path; None where there is none.

    Below `adamerge.` the last word alone decides, so that the paths of earlier versions still lead to their class.
    """
    module, _, word = name.rpartition(".")
    if not module or module.partition(".")[0] == "adamerge":
        return next((known[word] for known in map(known_classes, kinds) if word in known), None)
    try:
        found = getattr(import_module(module), word, None)
    except (ImportError, ValueError):
        return None
    return found if isinstance(found, type) and issubclass(found, tuple(kinds)) else None


def import_path(cls: type) -> str:
    """Where to import a class from: the outermost package that gives it out, its library's own door apart.

    Example:
        >>> from torch.optim.adam import Adam
        >>> import_path(Adam)
        'torch.optim.Adam'
    """
    parts = cls.__module__.split(".")
    packages = [".".join(parts[:end]) for end in range(2, len(parts) + 1)]
    outer = (package for package in packages if getattr(import_module(package), cls.__name__, None) is cls)
    return f"{next(outer, cls.__module__)}.{cls.__name__}"


def moved_to(cls: type, name: str) -> str | None:
    """Where a class is today, if it was named by a path that no longer leads to it."""
    module, _, word = name.rpartition(".")
    if not module:
        return None
    try:
        today = getattr(import_module(module), word, None)
    except ImportError:
        today = None
    return None if today is cls else import_path(cls)


def nearest(word: str, known: Sequence[str]) -> str:
    """The known word that was probably meant, as a sentence; empty where none is near.

    Example:
        >>> nearest("Adamm", ["SGD", "Adam"])
        ' Did you mean Adam?'
    """
    words = {other.lower(): other for other in reversed(known)}  # of equal ones the first
    near = difflib.get_close_matches(word.lower(), words, n=1)
    return f" Did you mean {words[near[0]]}?" if near else ""


def _below(kind: type) -> Iterator[type]:
    for cls in kind.__subclasses__():
        if cls is not SearchingOptimizer:  # which its options build
            yield cls
            yield from _below(cls)
