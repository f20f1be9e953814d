"""Layers of a configuration: files override presets, the command line overrides files, key by key."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final, get_type_hints

from adamerge.runs.class_names import find_class, import_path, is_foreign
from adamerge.runs.config import MergeConfig
from adamerge.runs.config_errors import dotted
from adamerge.runs.presets import COMMON
from adamerge.runs.read_yaml import Document, Key, Place
from adamerge.runs.type_hints import alternatives, is_choice, nameable, section, words
from adamerge.runs.unknown_keys import CHOICE, misspelt

DECIDED: Final = frozenset(key.partition(".")[0] for key in COMMON)
"""Top-level keys that a preset sets, or under which it sets a key."""


@cache
def kinds_of(key: str) -> tuple[object, ...]:
    """Return the types that a top-level key allows; empty for an unknown key."""
    hint = get_type_hints(MergeConfig).get(key)
    return () if hint is None else alternatives(hint)


def nested(document: Document) -> Document:
    """Convert dotted keys to sections, and a class's bare name or bare options to class_path and init_args.

    Example:
        >>> nested(Document({"optimizer.lr": 0.1, "feasible": "Box"})).content
        {'optimizer': {'init_args': {'lr': 0.1}}, 'feasible': {'class_path': 'Box'}}
    """
    content: dict[str, object] = {}
    for key, value in document.content.items():
        first, *inner = key.split(".")
        for part in reversed(inner):
            value = {_part(part): value}
        content = overlay(content, {first: _in_full(first, value)})
    return replace(document, content=content, places=_with_leaves(content, document.places))


def _with_leaves(content: Mapping[str, object], places: Mapping[Key, Place]) -> dict[Key, Place]:
    """Split the dotted keys of places, and add a place for every value and every numbered item written by an option."""
    split = {_split(key): place for key, place in places.items()}
    items = {key[:2]: place for key, place in split.items() if len(key) > 1 and isinstance(key[1], int)}
    near = {
        key: next((split[key[:end]] for end in range(len(key), 0, -1) if key[:end] in split), None)
        for key, _ in leaf_keys(content)
    }
    return items | {key: place for key, place in near.items() if place} | split


def import_paths(preset: Mapping[str, object]) -> dict[str, object]:
    """Replace each class name in a preset by its import path, as jsonargparse needs it.

    Example:
        >>> import_paths({"init": 0.0, "feasible": "Box"})
        {'init': 0.0, 'feasible': {'class_path': 'adamerge.optim.feasible_sets.Box'}}
    """
    return {key: _with_path(key, _in_full(key, value)) for key, value in preset.items()}


def overlay(lower: Mapping[str, object], upper: Mapping[str, object], *, preset: bool = False) -> dict[str, object]:
    """Combine two layers; values of the upper layer override values of the lower one.

    Args:
        lower: Lower layer.
        upper: Upper layer.
        preset: Whether the lower layer is a preset, whose class is dropped if the upper layer has plain options.

    Example:
        >>> overlay({"data": {"rows": 8, "held_out": 0.5}}, {"data": {"rows": 4}})
        {'data': {'rows': 4, 'held_out': 0.5}}
    """
    changed = {key: _over(key, lower[key], upper[key], preset) for key in upper if key in lower}
    return {**lower, **upper, **changed}


def leaves(value: object) -> Iterator[tuple[str, object]]:
    """Yield the dotted key of every value, and the value; a list counts as one value.

    Example:
        >>> list(leaves({"data": {"rows": 8}, "models": [1, 2]}))
        [('data.rows', 8), ('models', [1, 2])]
    """
    return ((dotted(key), inner) for key, inner in leaf_keys(value))


def leaf_keys(value: object, key: Key = ()) -> Iterator[tuple[Key, object]]:
    """Yield the key of every value, and the value; a list counts as one value."""
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, inner in value.items():
        yield from leaf_keys(inner, (*key, name))


def only(content: Mapping[str, object], keys: Iterable[str], key: Key = ()) -> dict[str, object]:
    """Select the settings that these dotted keys name.

    Example:
        >>> only({"data": {"rows": 8, "held_out": 0.5}, "init": 0}, ["data.rows"])
        {'data': {'rows': 8}}
    """
    kept: dict[str, object] = {}
    wanted = {key.replace(".init_args.", ".") for key in keys}  # a class's options may be written without init_args
    for name, value in content.items():
        if dotted((*key, name)).replace(".init_args.", ".") in wanted:
            kept[name] = value
        elif isinstance(value, Mapping) and (inner := only(value, keys, (*key, name))):
            kept[name] = inner
    return kept


def without(content: Mapping[str, object], key: Key) -> dict[str, object]:
    """Leave out one setting.

    Args:
        content: Settings.
        key: Its key; what is not there is not left out.

    Example:
        >>> without({"models": [{"model": "news", "wieght": 1}]}, ("models", 0, "wieght"))
        {'models': [{'model': 'news'}]}
    """
    first, *rest = key or ("",)
    left = dict(content)
    inner = left.get(str(first))
    if not rest:
        left.pop(str(first), None)
    elif isinstance(inner, Mapping):
        left[str(first)] = without(inner, tuple(rest))
    elif isinstance(inner, list):
        inside = tuple(rest[1:])
        left[str(first)] = [
            without(one, inside) if i == rest[0] and isinstance(one, Mapping) else one for i, one in enumerate(inner)
        ]
    return left


def together(layers: Sequence[Document]) -> Document:
    """Combine all layers into one; later layers override earlier ones."""
    whole = Document()
    for layer in layers:
        places = _left(whole.places, layer.content) | layer.places
        whole = replace(whole, content=overlay(whole.content, layer.content), places=places)
    return whole


def _left(places: Mapping[Key, Place], upper: Mapping[str, object]) -> dict[Key, Place]:
    """Remove the places within values that an upper layer replaces."""
    replaced = {key for key, _ in leaf_keys(upper) if key}
    return {key: place for key, place in places.items() if not any(key[:end] in replaced for end in range(1, len(key)))}


def _in_full(key: str, value: object) -> object:
    kinds = kinds_of(key)
    if isinstance(value, str) and value not in words(kinds) and _names_class(kinds, value):
        return {"class_path": value}
    if isinstance(value, type) and nameable(kinds):
        return {"class_path": value}
    if isinstance(value, Mapping) and is_choice(kinds) and not _chooses(kinds, value):
        return {"init_args": dict(value)} if value else value
    return value


def _chooses(kinds: Sequence[object], value: Mapping[str, object]) -> bool:
    """Return whether a class is named, or options are under `init_args`; perhaps in a wrong spelling."""
    return bool(value.keys() & {*CHOICE} or misspelt(kinds, value))


def _names_class(kinds: Sequence[object], value: str) -> bool:
    return bool(nameable(kinds)) and (is_foreign(value) or find_class(nameable(kinds), value) is not None)


def _with_path(key: str, value: object) -> object:
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    cls = find_class(nameable(kinds_of(key)), str(value["class_path"]))
    return {**value, "class_path": import_path(cls)} if cls else value


def _over(key: str, lower: object, upper: object, preset: bool) -> object:
    if isinstance(lower, list) and isinstance(upper, Mapping):
        return _over_items(lower, upper)
    if not isinstance(lower, Mapping) or not isinstance(upper, Mapping):
        return upper
    if "class_path" not in lower and "class_path" in upper:
        own = section(kinds_of(key))
        lower = {"class_path": own.__name__ if own else upper["class_path"], "init_args": lower}
    if "class_path" not in lower:
        return overlay(lower, upper)
    meant = misspelt(kinds_of(key), upper).values()
    if "class_path" in meant:
        return upper
    if "class_path" in upper:
        return overlay(lower, upper) if _same_class(key, lower, upper) else upper
    if "init_args" in upper or meant:
        return overlay(lower, upper)
    return upper if preset else overlay(lower, {"init_args": upper})


def _same_class(key: str, lower: Mapping[str, object], upper: Mapping[str, object]) -> bool:
    one, other = lower["class_path"], upper["class_path"]
    found = find_class(nameable(kinds_of(key)), str(one))
    return one == other or (found is not None and found is find_class(nameable(kinds_of(key)), str(other)))


def _over_items(lower: list[object], upper: Mapping[object, object]) -> object:
    """Override items of a list by their index, as in --models.0.task; other keys replace the list."""
    if not all(isinstance(index, int) and index < len(lower) for index in upper):
        return upper
    items = {index: _over("", lower[index], value, preset=False) for index, value in upper.items()}  # pyright: ignore
    return [items.get(index, item) for index, item in enumerate(lower)]


def _split(key: Key) -> Key:
    first, *inner = str(key[0]).split(".")
    return (first, *map(_part, inner), *key[1:])


def _part(word: str) -> str | int:
    """Return a part of a dotted key; digits are the index of an item."""
    return int(word) if word.isdecimal() else word
