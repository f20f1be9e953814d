"""Classes that a configuration may name: list them, find one by name, and write its import path."""

import difflib
import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module

from adamerge.optim import SearchingOptimizer


def known_classes(kind: type) -> dict[str, type]:
    """List a base class's concrete subclasses by name, or the class itself if it has none.

    Example:
        >>> from adamerge.optim.feasible_sets import FeasibleSet
        >>> sorted(known_classes(FeasibleSet))
        ['Box', 'Simplex', 'Unbounded']
    """
    return {cls.__name__: cls for cls in [*_below(kind)] or [kind] if not inspect.isabstract(cls)}


def find_class(kinds: Sequence[type], name: str) -> type | None:
    """Find a class by its name or import path; return None if there is none.

    In a path below `adamerge.` only the class name counts, so that paths of earlier versions still work.

    Args:
        kinds: Base classes that are allowed.
        name: Class name or import path.
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
    """Return the import path of a class: the outermost package that exports it, except for the top-level package.

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
    """Return the current import path of a class if it was named by a path that no longer exists, else None."""
    module, _, word = name.rpartition(".")
    if not module:
        return None
    try:
        today = getattr(import_module(module), word, None)
    except ImportError:
        today = None
    return None if today is cls else import_path(cls)


def nearest(word: str, known: Sequence[str]) -> str:
    """Suggest the most similar known word, as a sentence; empty if none is similar.

    Example:
        >>> nearest("Adamm", ["SGD", "Adam"])
        ' Did you mean Adam?'
    """
    words = {other.lower(): other for other in reversed(known)}  # the first of words that differ in case only
    near = difflib.get_close_matches(word.lower(), words, n=1)
    return f" Did you mean {words[near[0]]}?" if near else ""


def _below(kind: type) -> Iterator[type]:
    for cls in kind.__subclasses__():
        if cls is not SearchingOptimizer:  # built by a Descent's options, not named in a configuration
            yield cls
            yield from _below(cls)
