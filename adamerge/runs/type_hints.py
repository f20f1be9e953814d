"""List and describe the values that a type hint allows."""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from adamerge.runs.class_names import known_classes

SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", types.NoneType: "null"}
LISTS = (list, tuple, Sequence, Iterable)

_ABSTRACT = {"Callable": Callable, "Iterable": Iterable, "Mapping": Mapping, "Sequence": Sequence}
"""Names in hints that torch's modules import for type checkers alone."""


_PYTHON_ONLY = "an object that exists in Python only"


class Option(NamedTuple):
    """One argument of a class.

    Attributes:
        hint: Type hint of the argument.
        required: Whether the argument has no default.
    """

    hint: object
    required: bool


def alternatives(hint: object) -> tuple[object, ...]:
    """Return the members of a union, or the hint itself."""
    if get_origin(hint) is Annotated:
        return alternatives(get_args(hint)[0])
    if hint is Any:
        return (object,)
    if get_origin(hint) not in (Union, types.UnionType):
        return (hint,)
    return tuple(kind for member in get_args(hint) for kind in alternatives(member))


def words(kinds: Sequence[object]) -> list[object]:
    """List the literal values among the types."""
    return [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]


def called_for(kind: object) -> type | None:
    """Return the class that a callable returns: Optimizer for Callable[[...], Optimizer]."""
    if get_origin(kind) is not Callable:
        return None
    made = get_args(kind)[-1]
    return made if isinstance(made, type) else None


def families(kinds: Sequence[object]) -> list[type]:
    """List the classes among the types; objects of their subclasses are allowed too."""
    classes = [kind if isinstance(kind, type) else called_for(kind) for kind in kinds]
    return [cls for cls in classes if cls is not None and cls not in SCALARS and get_origin(cls) is None]


def nameable(kinds: Sequence[object]) -> list[type]:
    """List the classes among the types that YAML may build: of this package, optimisers, schedulers, loggers.

    All other objects, such as the tensors that torch's optimisers accept as options, exist in Python only. So no option
    of another library's class can name a class.
    """
    own = [cls for cls in families(kinds) if cls.__module__.partition(".")[0] == "adamerge"]
    made = [cls for cls in map(called_for, kinds) if cls is not None and _may_be_named(cls)]
    return list(dict.fromkeys([*own, *made]))


def _may_be_named(cls: type) -> bool:
    from torch.optim import Optimizer  # slow imports, which a command's own options do not need
    from torch.optim.lr_scheduler import LRScheduler

    return issubclass(cls, (Optimizer, LRScheduler)) or _is_logger(cls)


def _is_logger(cls: type) -> bool:
    from adamerge.learning.loggers import Logger  # imports Lightning

    return issubclass(cls, Logger)


def section(kinds: Sequence[object]) -> type | None:
    """Return the dataclass whose options are written without its name, if there is one."""
    plain = (cls for cls in nameable(kinds) if is_dataclass(cls) and not inspect.isabstract(cls))
    return next(plain, None)


def is_choice(kinds: Sequence[object]) -> bool:
    """Return whether the class must be named, because there is more than one."""
    return bool(nameable(kinds)) and section(kinds) is None


@cache
def options(cls: type, *, called_later: bool = False) -> Mapping[str, Option]:
    """List the arguments of a class by name; without the first one if the class is called later with it."""
    if is_dataclass(cls):
        hints = get_type_hints(cls)
        return {
            own.name: Option(hints[own.name], own.default is MISSING and own.default_factory is MISSING)
            for own in fields(cls)
            if own.init and get_origin(hints[own.name]) is not ClassVar
        }
    logger = _is_logger(cls)
    parameters = list(inspect.signature(cls).parameters.values())[1 if called_later and not logger else 0 :]
    named = [own for own in parameters if own.kind in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY)]
    hints = _hints_of(cls)
    given = {"save_dir"} if logger else set[str]()  # by default the run's own folder
    return {
        own.name: Option(hints.get(own.name, object), own.default is own.empty and own.name not in given)
        for own in named
    }


def in_words(kinds: Sequence[object]) -> str:
    """Describe the expected values, for a message.

    Example:
        >>> in_words(alternatives(Literal["task", "block"] | float | None))
        "a number, 'task', 'block' or null"
    """
    scalars = [SCALARS[kind] for kind in kinds if isinstance(kind, type) and kind in SCALARS and kind is not type(None)]
    items = [alternatives(get_args(kind)[0]) for kind in kinds if get_origin(kind) in LISTS]
    lists = ["a list"] if any(in_words(item) != _PYTHON_ONLY for item in items) else []
    names = [_name(family) for family in nameable(kinds)]
    null = ["null"] if type(None) in kinds else []
    written = [*scalars, *(repr(word) for word in words(kinds)), *lists, *names, *null]
    every = written or [_PYTHON_ONLY]
    return " or ".join([", ".join(every[:-1]), every[-1]] if len(every) > 1 else every)


def _name(family: type, most: int = 12) -> str:
    """Describe a class: list its subclasses if they are few, else name two of them."""
    if is_dataclass(family) and not inspect.isabstract(family):
        if said := getattr(family, "IN_WORDS", None):
            return str(said)
        return f"keys of {family.__name__} ({', '.join(options(family))})"
    known = [name for name in known_classes(family) if not name.startswith("_")]
    return ", ".join(known) if len(known) <= most else f"the name of a class such as {' or '.join(known[:2])}"


def _hints_of(cls: type) -> dict[str, object]:
    try:
        return get_type_hints(cls.__init__, localns=_ABSTRACT)
    except (NameError, TypeError):  # a hint that cannot be evaluated at run time
        return {}
