"""Classes that a configuration may name: list them, find one by name, and write its import path."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Final

PACKAGES: Final = ("adamerge", "torch", "pytorch_lightning", "lightning", "lightning_fabric")
"""Packages whose classes every configuration may name; naming any other class would import code that others wrote."""


def known_classes(kind: type) -> dict[str, type]:
    """List a base class's concrete subclasses in `PACKAGES` by name, or the class itself if it has none.

    Example:
        >>> from adamerge.optim.feasible_sets import FeasibleSet
        >>> sorted(known_classes(FeasibleSet))
        ['Box', 'Simplex', 'Unbounded']
    """
    found = [cls for cls in _below(kind) if _package(cls.__module__) in PACKAGES]
    return {cls.__name__: cls for cls in found or [kind] if not inspect.isabstract(cls)}


def find_class(kinds: Sequence[type], name: str) -> type | None:
    """Find a class of `PACKAGES` by its name or import path, among classes that are loaded; imports nothing.

    In a path below `adamerge.` only the class name counts, so that paths of earlier versions still work.

    Args:
        kinds: Base classes that are allowed.
        name: Class name or import path.

    Returns:
        The class, a subclass of one of `kinds`; None if there is none.
    """
    module, _, word = name.rpartition(".")
    named = (known[word] for known in map(known_classes, kinds) if word in known)
    any_path = not module or _package(module) == "adamerge"
    return next((cls for cls in named if any_path or _exports(module, word) is cls), None)


def is_foreign(name: str) -> bool:
    """Return whether an import path leads to an installed package outside `PACKAGES`; imports nothing.

    Example:
        >>> is_foreign("os.system"), is_foreign("torch.os.system"), is_foreign("Adam"), is_foreign("no_package.Adam")
        (True, False, False, False)
    """
    package = _package(name)
    if not _is_path(name) or package in PACKAGES:
        return False
    return package in sys.modules or find_spec(package) is not None


def import_class(kinds: Sequence[type], name: str) -> type | None:
    """Import the class that a path names. **This runs the code of its module**: ask the user first.

    Args:
        kinds: Base classes that are allowed.
        name: Import path.

    Returns:
        The class, a subclass of one of `kinds`; None if there is none.
    """
    module, _, word = name.rpartition(".")
    if not _is_path(name):
        return None
    try:
        found = getattr(import_module(module), word, None)
    except ImportError:
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
    return None if _exports(module, word) is cls else import_path(cls)


def _below(kind: type) -> Iterator[type]:
    from adamerge.optim import SearchingOptimizer  # imports torch, which a command's own options do not need

    for cls in kind.__subclasses__():
        if cls is not SearchingOptimizer:  # built by a Descent's options, not named in a configuration
            yield cls
            yield from _below(cls)


def _exports(module: str, word: str) -> object:
    """Return what a loaded module has under a name; None if the module is not loaded."""
    return getattr(sys.modules.get(module), word, None)


def _package(path: str) -> str:
    return path.partition(".")[0]


def _is_path(name: str) -> bool:
    return "." in name and all(part.isidentifier() for part in name.split("."))
