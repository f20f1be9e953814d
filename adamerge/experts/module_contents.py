"""What a forward pass could change in a module besides parameters and buffers, and how it is restored."""

import operator
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from adamerge.experts.opaque_states import Opaque, opaque, slots_of

Container: TypeAlias = dict[Any, Any] | list[Any] | set[Any] | deque[Any] | bytearray

_CONTAINERS = frozenset({OrderedDict, dict, list})
_CONSTANT = frozenset({bool, int, float, str, type(None), FunctionType, torch.dtype, torch.device, torch.Size})
"""Types of attributes with and without contents that a pass could change; for speed, others are looked at in full."""

_REGISTERED = ("_parameters", "_buffers", "_modules")

_OUTSIDE = (Tensor, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, partial)
"""What has contents of its own, or none that belong to one module."""

_DEEPEST = 2**14
"""Number of containers inside others that are looked at; a pass that changes more is found by its answers."""


class Kept(NamedTuple):
    """Contents of one container of a module before a pass: attributes, submodules, a list, an object in a list.

    Attributes:
        path: Path of the module.
        key: Its attribute that is the container, or has it; empty for the attributes themselves.
        container: The container.
        then: A copy of its contents; None if there were none.
    """

    path: str
    key: str
    container: Container
    then: Container | None


class Contents(NamedTuple):
    """Contents of a module before a pass.

    Attributes:
        kept: Every container with contents that a pass could change.
        empty: Every container without contents; most are.
        opaque: What can be copied as a whole alone, by path: tensors that are neither parameters nor buffers, arrays,
            generators of random numbers.
        buffers: Buffers by path; one that is there under several names has the first.
        tied: Whether a parameter or buffer is there under several names.
    """

    kept: Sequence[Kept]
    empty: Sequence[Kept]
    opaque: Sequence[tuple[str, Opaque]]
    buffers: Mapping[str, Tensor]
    tied: bool


@contextmanager
def unchanged(
    module: nn.Module, modules: Sequence[tuple[str, nn.Module]] = (), contents: Contents | None = None
) -> Generator[list[str]]:
    """Restore attributes, submodules and configurations of a module after the block.

    Args:
        module: The module.
        modules: Its submodules by path, if they are known.
        contents: Their contents, if they are known.

    Yields:
        An empty list, which contains the names of what was changed when the block has ended.

    Example:
        >>> module = nn.Sequential(nn.Linear(1, 1))
        >>> with unchanged(module) as changed:
        ...     module[0].scale = 2.0
        >>> changed, hasattr(module[0], "scale")
        (['0.scale'], False)
    """
    changed: list[str] = []
    contents = contents or contents_of(modules or tuple(module.named_modules()))
    states = [(name, one, one.state(one.value)) for name, one in contents.opaque]
    try:
        yield changed
    finally:
        filled = [one for one in contents.empty if one.container]
        changed += [name for one in (*contents.kept, *filled) for name in _restore(one)]
        changed += [name for name, one, state in states if one.restore(one.value, state)]


def contents_of(modules: Sequence[tuple[str, nn.Module]], former: Contents | None = None) -> Contents:
    """Look at the contents of modules; the former ones are returned if all containers still hold the same objects."""
    if former is not None and _unaltered(former):
        return former
    found = [*_walk(modules)]
    containers = [one for one in found if isinstance(one, Kept)]
    kept, empty = tuple(one for one in containers if one.then), tuple(one for one in containers if not one.then)
    whole = tuple(one for one in found if not isinstance(one, Kept))
    return Contents(kept, empty, whole, dict(_buffers(kept)), _tied(kept))


def _unaltered(former: Contents) -> bool:
    """Return whether every container holds what it held."""
    return not any(one.container for one in former.empty) and all(map(_holds, former.kept))


def _holds(kept: Kept) -> bool:
    """Return whether a container holds what it held."""
    now, then = kept.container, kept.then
    return then is not None and len(now) == len(then) and _same(now, then)


def _walk(modules: Sequence[tuple[str, nn.Module]]) -> Iterator[Kept | tuple[str, Opaque]]:
    """Yield all that a pass could change, at any depth; most containers are empty, so these are not copied."""
    seen, deep = {id(owner) for _, owner in modules}, 0
    left: deque[tuple[str, str, object]] = deque()
    for path, owner in modules:
        own = owner.__dict__
        yield Kept(path, "", own, own.copy())
        left += [(path, key, value) for key, value in own.items() if type(value) not in _CONSTANT]
    while left:
        path, key, value = left.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        whole = None if type(value) in _CONTAINERS else opaque(value)
        inside = _inside(value) if whole is None else None
        if whole is not None:
            yield _name(path, key), whole
        elif inside is not None:
            yield Kept(path, key, inside, inside.copy() if inside else None)
        if key in _REGISTERED or "_hooks" in key or deep > _DEEPEST:  # hooks are others' own
            continue
        if inside or inside is None:
            inner = [(name, part) for name, part in _parts(value, inside) if type(part) not in _CONSTANT]
            left += [(path, f"{key}.{name}", part) for name, part in inner]
            deep += len(inner)


def _parts(value: object, inside: Container | None) -> Iterable[tuple[object, object]]:
    """Return what is in a container, a tuple, a partial function or the slots of an object, by name."""
    if isinstance(value, partial):
        return enumerate((value.func, value.args, value.keywords))
    if inside is None:
        return (
            enumerate(value)
            if isinstance(value, tuple)
            else [(n, getattr(value, n, None)) for n in slots_of(type(value))]
        )
    if isinstance(inside, dict):
        return inside.items()
    return () if isinstance(inside, bytearray) else enumerate(inside)


def _buffers(kept: Iterable[Kept]) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers of all modules, each under its first name."""
    seen: set[int] = set()
    for path, key, now, _ in kept:
        if key == "_buffers" and isinstance(now, dict):
            for name, buffer in now.items():
                if buffer is not None and id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield _name(path, name), buffer


def _tied(kept: Iterable[Kept]) -> bool:
    registered = [one.container for one in kept if one.key in ("_parameters", "_buffers")]
    found = [id(t) for own in registered if isinstance(own, dict) for t in own.values() if t is not None]
    return len(set(found)) < len(found)


def _inside(value: object) -> Container | None:
    """Return the contents of an attribute that can change: of a container, or the attributes of an object."""
    if isinstance(value, dict | list | set | deque | bytearray):
        return value
    if isinstance(value, _OUTSIDE) or type(value).__module__.startswith("torch.distributed"):
        return None  # what divides a module among processes has contents of its own
    own = getattr(value, "__dict__", None)
    return own if isinstance(own, dict) else None


def _restore(kept: Kept) -> Sequence[str]:
    """Restore a container, and return the names of what was changed in it."""
    path, key, now, then = kept
    then = type(now)() if then is None else then
    if len(now) == len(then) and _same(now, then):
        return ()
    if isinstance(now, dict) and isinstance(then, dict):
        inner = "" if key in ("", "_modules") else key
        names = [name for name in {**now, **then} if now.get(name, _NOTHING) is not then.get(name, _NOTHING)]
        now.clear()
        now.update(then)
        return [".".join(part for part in (path, inner, str(name)) if part) for name in names]
    if isinstance(now, list | bytearray):
        now[:] = then
    elif isinstance(now, set | deque):
        now.clear()
        (now.extend if isinstance(now, deque) else now.update)(then)
    return [_name(path, key)]


def _name(path: str, key: str) -> str:
    return f"{path}.{key}".lstrip(".")


def _same(now: Container, then: Container) -> bool:
    """Return whether two containers of equal size hold the same objects."""
    if isinstance(now, dict) and isinstance(then, dict):
        return all(map(operator.is_, now.values(), then.values())) and list(now) == list(then)
    return now == then if isinstance(now, set | bytearray) else all(map(operator.is_, now, then))


_NOTHING = object()
