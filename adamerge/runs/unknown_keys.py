"""Refuse keys that a class lacks, and say which ones were meant."""

from collections.abc import Collection, Mapping, Sequence

from adamerge.runs.class_names import known_classes
from adamerge.runs.config_errors import Findings
from adamerge.runs.elsewhere import belongs_elsewhere, elsewhere
from adamerge.runs.read_yaml import Key
from adamerge.runs.similar_words import beginning_with, most_similar, nearest
from adamerge.runs.type_hints import nameable, options

CHOICE = ("class_path", "init_args")
"""Keys that name a class and hold its options."""


def refuse_key(
    cls: type,
    name: str,
    known: Collection[str],
    missing: Collection[str],
    key: Key,
    findings: Findings,
    *,
    of: str = "",
) -> None:
    """Refuse a key that a class lacks, and say which one was meant: one of the class, or one with its place elsewhere.

    Args:
        cls: The class.
        name: The key.
        known: Keys of the class.
        missing: Those that are required and were not written.
        key: Dotted key.
        findings: Collects the mistake.
        of: Name of the class in the message; by default said of what is under `init_args`.
    """
    near = replaced(cls, name) or _own(cls, name, known, missing)
    if findings.whole and not near and not belongs_elsewhere(cls, name):
        near = replaced(findings.whole, name)
    near = near or elsewhere(cls, name) or _in_the_whole(findings.whole, name)
    chosen = of or (cls.__name__ if key[-2:-1] == ("init_args",) else "")
    findings.refuse(key, f"{chosen and f'{chosen}: '}there is no such key.{near}")


def misspelt(kinds: Sequence[object], written: Mapping[str, object]) -> dict[str, str]:
    """Find keys that were meant as `class_path` or `init_args`, where a class may be named.

    Args:
        kinds: Types of the setting.
        written: Its keys.

    Returns:
        The key that was meant, by the one that was written; the key of a class that is more similar is meant first.

    Example:
        >>> from adamerge.optim.feasible_sets import FeasibleSet
        >>> misspelt([FeasibleSet], {"class_pth": "Box", "init_agrs": {"uper": 1}, "uper": 1})
        {'class_pth': 'class_path', 'init_agrs': 'init_args'}
    """
    near = {str(name): most_similar(str(name), CHOICE) for name in written if name not in CHOICE}
    if not any(near.values()):
        return {}
    own = [name for family in nameable(kinds) for cls in known_classes(family).values() for name in options(cls)]
    if not own:
        return {}
    return {name: word for name, word in near.items() if word and most_similar(name, [*own, *CHOICE]) == word}


def _own(cls: type, name: str, known: Collection[str], missing: Collection[str]) -> str:
    """Suggest a key of the class: one that is missing, or any unless another place has exactly this key."""
    distant = belongs_elsewhere(cls, name)
    begun = beginning_with(name, missing) or (None if distant else beginning_with(name, known))
    if begun:
        return f" Did you mean {begun}?"
    return "" if distant else nearest(name, [*known])


def replaced(cls: type, name: str) -> str:
    """Say what replaces a key that a class has no longer; empty if nothing does."""
    words: Mapping[str, str] = getattr(cls, "REPLACED", {})
    plain = name.replace("-", "_")
    return f" {words[plain]}" if plain in words else ""


def _in_the_whole(cls: type | None, name: str) -> str:
    """Say where in the configuration a key belongs that its section, and what is in that, lacks."""
    if cls is None:
        return ""
    if name in options(cls):
        return f" {name} belongs at the top level, beside models."
    return elsewhere(cls, name)
