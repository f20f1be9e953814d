"""Say where a key belongs that was written in a wrong place: found from the types of the configuration."""

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import NamedTuple, get_args, get_origin

from adamerge.runs.class_names import known_classes
from adamerge.runs.similar_words import same_but_for_typing
from adamerge.runs.type_hints import LISTS, alternatives, called_for, nameable, options, section


class Home(NamedTuple):
    """A place where a key may be written.

    Attributes:
        name: The key.
        under: Dotted key of the section, or of the setting that holds an object of the class.
        cls: Class of which the key is an argument; empty for a section.
    """

    name: str
    under: str
    cls: str


def elsewhere(cls: type, name: str) -> str:
    """Say where a similar key belongs: in a section, or among the arguments of classes; empty if there is none.

    Args:
        cls: Class of the section in which the key was written.
        name: The key.

    Example:
        >>> from adamerge.runs.config import MergeConfig
        >>> elsewhere(MergeConfig, "lower")
        ' Did you mean lower of Box under feasible.init_args?'
        >>> elsewhere(MergeConfig, "batchsize")
        ' Did you mean batch_size under data?'
    """
    names = list(dict.fromkeys(home.name for home in _homes(cls)))
    best = name if name in names else _initials(name, names) or same_but_for_typing(name, names)
    found = [home for home in _homes(cls) if home.name == best]
    return f" Did you mean {best} {', or '.join(_places(found))}?" if found else ""


def belongs_elsewhere(cls: type, name: str) -> bool:
    """Return whether a section of a class, or an object that it holds, has exactly this key."""
    return any(home.name == name for home in _homes(cls))


def _places(homes: Sequence[Home]) -> Iterator[str]:
    """Yield the places of a key in words: sections, then settings that hold objects of classes."""
    sections = [home.under for home in homes if not home.cls]
    if sections:
        yield f"under {_listed(sections)}"
    classes: dict[str, tuple[str, ...]] = {}
    for home in (home for home in homes if home.cls):
        classes[home.under] = (*classes.get(home.under, ()), home.cls)
    for names in sorted(dict.fromkeys(classes.values()), key=len, reverse=True):
        yield f"of {_listed(names)} under {_listed([f'{key}.init_args' for key in classes if classes[key] == names])}"


def _initials(name: str, names: Sequence[str]) -> str | None:
    """Find the key that abbreviates a name, or that the name abbreviates: lr for learning_rate."""
    return next((other for other in names if other == _first_letters(name) or name == _first_letters(other)), None)


def _first_letters(name: str) -> str | None:
    parts = [part for part in name.split("_") if part]
    return "".join(part[0] for part in parts) if len(parts) > 1 else None


def _listed(words: Sequence[str], most: int = 4) -> str:
    """List words once each, and count those that are too many."""
    known = list(dict.fromkeys(words))
    shown = known if len(known) <= most else [*known[: most - 1], f"{len(known) - most + 1} more"]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


@cache
def _homes(cls: type) -> tuple[Home, ...]:
    """Collect the keys of all sections and classes that the settings of a class may hold."""
    return tuple(home for own, option in options(cls).items() for home in _inside(option.hint, own, frozenset({cls})))


def _inside(hint: object, under: str, around: frozenset[type]) -> Iterator[Home]:
    """Yield the keys of the section, or of the classes, that a setting holds, and those inside them."""
    kinds = [kind for member in alternatives(hint) for kind in _members(member)]
    plain = section(kinds)
    later = tuple(made for kind in kinds if (made := called_for(kind)))
    for cls in (cls for family in nameable(kinds) for cls in _concrete(family) if cls not in around):
        written = "" if cls is plain else cls.__name__
        for name, option in options(cls, called_later=bool(later) and issubclass(cls, later)).items():
            yield Home(name, under, written)
            if not written:
                yield from _inside(option.hint, f"{under}.{name}", around | {cls})


def _concrete(family: type) -> Collection[type]:
    """List the classes that a name may choose; a family that is a section itself stands for itself."""
    return [family] if section([family]) else known_classes(family).values()


def _members(hint: object) -> Sequence[object]:
    return alternatives(get_args(hint)[0]) if get_origin(hint) in LISTS else (hint,)
