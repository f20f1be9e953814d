"""Build settings from written values by the types of the configuration; collects every mistake, raises none."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import get_args, get_origin

from adamerge.runs.class_names import find_class, import_class, is_foreign, known_classes, moved_to
from adamerge.runs.config_errors import Findings
from adamerge.runs.construct import INVALID, refusals, usable
from adamerge.runs.read_yaml import Key
from adamerge.runs.similar_words import nearest
from adamerge.runs.type_hints import (
    LISTS,
    Option,
    alternatives,
    called_for,
    families,
    in_words,
    nameable,
    options,
    section,
    words,
)
from adamerge.runs.unknown_keys import misspelt, refuse_key
from adamerge.types import quoted

MOST = 2**53
"""Size of the largest number; no setting has a use for larger ones."""


def build(hint: object, value: object, key: Key, findings: Findings) -> object:
    """Convert a written value to a type hint.

    Args:
        hint: Type hint of a field or an argument.
        value: Value as YAML gives it, or a Python object.
        key: Key of the value.
        findings: Collects mistakes and notes.

    Returns:
        The object, or INVALID after a mistake.

    Example:
        >>> build(float | None, 3, (), Findings())
        3.0
    """
    kinds = alternatives(hint)
    if object in kinds or _is_built(kinds, value):
        return value
    if isinstance(value, Mapping):
        return _from_mapping(kinds, value, key, findings)
    if isinstance(value, list | tuple):
        return _from_list(kinds, value, key, findings)
    found = _scalar(kinds, value, findings.spelling(key))
    if found is INVALID and isinstance(value, str) and nameable(kinds) and (cls := _class(kinds, value, findings)):
        return _of_class(cls, value, {}, kinds, key, findings)
    if found is INVALID:
        _refuse(kinds, value, key, findings)
    elif isinstance(found, int | float) and MOST < abs(found) < math.inf:
        findings.refuse(key, f"expected a number of at most {MOST:g} in size, found {quoted(value)}.")
        return INVALID
    return found


def make(
    cls: type, written: Mapping[str, object], key: Key, findings: Findings, *, called_later: bool = False
) -> object:
    """Build an object of a class from its options.

    Args:
        cls: Class of the object.
        written: Options as they were written.
        key: Key of the options.
        findings: Collects mistakes and notes.
        called_later: Return a partial that builds the object when it gets its first argument.

    Returns:
        The object or partial, or INVALID after a mistake.
    """
    known = options(cls, called_later=called_later)
    missing = [name for name, option in known.items() if option.required and name not in written]
    for name in [name for name in written if name not in known]:
        refuse_key(cls, str(name), known, missing, (*key, str(name)), findings)
    if missing:
        findings.refuse(key, f"missing: {', '.join(missing)}")
    built = {
        name: build(option.hint, written[name], (*key, name), findings)
        for name, option in known.items()
        if name in written
    }
    return _construct(cls, known, built, key, findings, called_later=called_later)


def _construct(
    cls: type,
    known: Mapping[str, Option],
    built: Mapping[str, object],
    key: Key,
    findings: Findings,
    *,
    called_later: bool,
) -> object:
    """Build the object of usable options; otherwise add what the class refuses."""
    given = usable(known, built)
    found = list(refusals(_on_trial(cls) if called_later else cls, known, given, cls.__name__))
    for name, problem in found:
        findings.refuse(key if name is None else (*key, name), problem)
    if found or not given.complete:
        return INVALID
    return partial(cls, **given.values) if called_later else cls(**given.values)


def _on_trial(cls: type) -> Callable[..., object]:
    from adamerge.runs.trials import on_trial  # imports Lightning, which a command's own options do not need

    return on_trial(cls)


def _is_built(kinds: Sequence[object], value: object) -> bool:
    """Return whether a value already has one of the types."""
    if value is None:
        return type(None) in kinds
    if isinstance(value, str | Mapping | list | tuple):
        return False
    built_later = [kind for kind in kinds if get_origin(kind) is not None and called_for(kind)]
    classes = families([kind for kind in kinds if isinstance(kind, type)])
    return isinstance(value, tuple(classes)) or bool(built_later and callable(value))


def _scalar(kinds: Sequence[object], value: object, spelling: str | None) -> object:
    if f"{type(value).__module__}.{type(value).__name__}" == "torch.dtype":  # without an import of torch
        value = str(value).removeprefix("torch.")
    if value in words(kinds) and not isinstance(value, bool):
        return value
    if isinstance(value, bool) and bool in kinds:
        return value
    if isinstance(value, Integral) and not isinstance(value, bool) and int in kinds:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool) and float in kinds:
        return INVALID if isinstance(value, Integral) and int(value).bit_length() > 1023 else float(value)
    if str not in kinds or value is None:
        return INVALID
    text = str(value) if isinstance(value, str | Path) else spelling
    return INVALID if text is None else text


def _from_list(kinds: Sequence[object], value: Sequence[object], key: Key, findings: Findings) -> object:
    """Build a list by the list type that most items fit; among several, by the one that gives the fewest mistakes."""
    lists = [kind for kind in kinds if get_origin(kind) in LISTS]
    if not lists:
        _refuse(kinds, value, key, findings)
        return INVALID
    fitting = {kind: sum(_fits(alternatives(get_args(kind)[0]), item) for item in value) for kind in lists}
    trials: list[tuple[object, Findings]] = []
    for kind in [kind for kind in lists if fitting[kind] == max(fitting.values())]:
        trial = replace(findings, mistakes=[], notes=[])
        trials.append((_list_of(kind, value, key, trial), trial))
    built, best = min(trials, key=lambda trial: len(trial[1].mistakes))
    findings.mistakes += best.mistakes
    findings.notes += best.notes
    return built


def _fits(kinds: Sequence[object], value: object) -> bool:
    """Return whether a value has the form of one of the types: keys, a list, or neither."""
    if isinstance(value, Mapping):
        return bool(nameable(kinds))
    if isinstance(value, list | tuple):
        return any(get_origin(kind) in LISTS for kind in kinds)
    return section(kinds) is None or _is_built(kinds, value)


def _list_of(kind: object, value: Sequence[object], key: Key, findings: Findings) -> object:
    of, make_list = get_args(kind), get_origin(kind)
    hints = of if make_list is tuple and of[-1] is not ... else (of[0],) * len(value)
    if len(hints) != len(value):
        findings.refuse(key, f"expected {len(hints)} values, found {len(value)}.")
        return INVALID
    built = [build(hint, item, (*key, i), findings) for i, (hint, item) in enumerate(zip(hints, value, strict=True))]
    if any(item is INVALID for item in built):
        return INVALID
    return built if make_list is list else tuple(built)


def _from_mapping(kinds: Sequence[object], value: Mapping[str, object], key: Key, findings: Findings) -> object:
    plain = section(kinds)
    value = _corrected(kinds, value, key, findings)
    if value.get("class_path") is not None or "init_args" in value:
        return _named(kinds, value, key, findings)
    if plain is not None:
        return make(plain, value, key, findings)
    if value and all(isinstance(name, int) for name in value) and any(get_origin(kind) in LISTS for kind in kinds):
        for index in value:
            findings.refuse((*key, index), f"there is no item {index}; expected the number of one, the first is 0.")  # pyright: ignore
        return INVALID
    _refuse(kinds, dict(value), key, findings)
    return INVALID


def _corrected(
    kinds: Sequence[object], value: Mapping[str, object], key: Key, findings: Findings
) -> Mapping[str, object]:
    """Refuse keys that were meant as `class_path` or `init_args`, and read them as these."""
    meant = misspelt(kinds, value)
    for name, word in meant.items():
        findings.refuse((*key, name), f"there is no such key. Did you mean {word}?")
    right = {name: inner for name, inner in value.items() if name not in meant}
    return {**right, **{word: value[name] for name, word in meant.items()}}


def _named(kinds: Sequence[object], value: Mapping[str, object], key: Key, findings: Findings) -> object:
    """Build an object from `class_path` and `init_args`."""
    named, given = value.get("class_path"), value.get("init_args") or {}
    cls = None if named is None else _class(kinds, named, findings)
    for name in [name for name in value if name not in ("class_path", "init_args")]:
        _refuse_beside(cls, name, (*key, name), findings)
    if named is None:
        findings.refuse(key, f"expected a class for these options, found none; name it, for example {_example(kinds)}.")
        return INVALID
    if cls is None:
        _refuse_class(kinds, named, (*key, "class_path"), findings)
        return INVALID
    if not isinstance(given, Mapping):
        findings.refuse((*key, "init_args"), f"expected keys and values, found {quoted(given)}.")
        return INVALID
    return _of_class(cls, named, given, kinds, key, findings)


def _refuse_beside(cls: type | None, name: str, key: Key, findings: Findings) -> None:
    """Refuse a key beside `class_path`: it belongs under `init_args` if the class has it."""
    known = options(cls) if cls else {}
    if cls is None or name in known:
        findings.refuse(key, f"expected under init_args, beside class_path; move {name} there.")
    else:
        refuse_key(cls, name, known, (), key, findings, of=cls.__name__)


def _class(kinds: Sequence[object], named: object, findings: Findings) -> type | None:
    """Find the class that was named; import it only if code is allowed. A class of Python is used as is."""
    allowed = nameable(kinds)
    if isinstance(named, type):
        return named if issubclass(named, tuple(allowed)) else None
    if not isinstance(named, str):
        return None
    return find_class(allowed, named) or (import_class(allowed, named) if findings.allow_code else None)


def _of_class(
    cls: type, named: object, given: Mapping[str, object], kinds: Sequence[object], key: Key, findings: Findings
) -> object:
    new = moved_to(cls, named) if isinstance(named, str) else None
    if new is not None:
        findings.notes.append(f"{findings.where(key)}{named} is now {new}; the name {cls.__name__} is enough.")
    later = [made for kind in kinds if (made := called_for(kind))]
    return make(cls, given, (*key, "init_args"), findings, called_later=bool(later) and issubclass(cls, tuple(later)))


def _example(kinds: Sequence[object]) -> str:
    return next(iter(_class_names(kinds)), "its class_path")


def _class_names(kinds: Sequence[object]) -> list[str]:
    return [name for family in nameable(kinds) for name in known_classes(family)]


def _refuse(kinds: Sequence[object], value: object, key: Key, findings: Findings) -> None:
    known = [*(str(word) for word in words(kinds)), *_class_names(kinds)]
    if isinstance(value, str) and nameable(kinds) and is_foreign(value):
        _refuse_class(kinds, value, key, findings)
        return
    near = nearest(value.rpartition(".")[2], known) or _by_its_key(kinds, value) if isinstance(value, str) else ""
    findings.refuse(key, f"expected {in_words(kinds)}, found {_shown(value)}.{near}")


def _by_its_key(kinds: Sequence[object], value: str) -> str:
    """Say how a value is written alone, where keys were expected of which one must be there."""
    plain = section(kinds)
    needed = [] if plain is None else [name for name, option in options(plain).items() if option.required]
    return f" Write {{{needed[0]}: {quoted(value)}}}." if len(needed) == 1 else ""


def _refuse_class(kinds: Sequence[object], named: object, key: Key, findings: Findings) -> None:
    name = str(named)
    near = nearest(name.rpartition(".")[2], _class_names(kinds))
    if findings.allow_code or not is_foreign(name):
        findings.refuse(key, f"there is no class {name}; expected {in_words(kinds)}.{near}")
        return
    findings.refuse(
        key,
        f"expected {in_words(kinds)}, found {name}, which is outside torch, Lightning and adamerge: to import it would "
        f"run code. If you trust that code, allow it by --allow_code (in Python: allow_code=True).{near}",
    )


def _shown(value: object) -> str:
    return "keys " + ", ".join(map(str, value)) if isinstance(value, dict) else quoted(value)
