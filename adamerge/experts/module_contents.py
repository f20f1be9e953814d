"""What a forward pass could change in a module besides parameters and buffers, and how it is restored."""

import operator
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Container: TypeAlias = dict[Any, Any] | list[Any] | set[Any]

_CONTAINERS = frozenset({OrderedDict, dict, list})
_CONSTANT = frozenset({bool, int, float, str, tuple, type(None), FunctionType, torch.dtype, torch.device})
"""Types of attributes with and without contents that a pass could change; for speed, others are looked at in full."""


class Kept(NamedTuple):
    """Contents of one container of a module before a pass: attributes, submodules, a list.

    Attributes:
        path: Path of the module.
        key: Its attribute that is the container; empty for the attributes themselves.
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
        tensors: Tensors by path that are attributes, neither parameters nor buffers.
        buffers: Buffers by path; one that is there under several names has the first.
        tied: Whether a parameter or buffer is there under several names.
    """

    kept: Sequence[Kept]
    empty: Sequence[Kept]
    tensors: Sequence[tuple[str, Tensor]]
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
    tensors = [(name, t, version_of(t), t.clone()) for name, t in contents.tensors]
    try:
        yield changed
    finally:
        filled = [one for one in contents.empty if one.container]
        changed += [name for one in (*contents.kept, *filled) for name in _restore(one)]
        for name, tensor, version, copy in tensors:
            if version_of(tensor) != version:
                changed.append(name)
                with torch.no_grad():
                    tensor.copy_(copy)


def contents_of(modules: Sequence[tuple[str, nn.Module]], former: Contents | None = None) -> Contents:
    """Look at the contents of modules; the former ones are returned if all containers still hold the same objects."""
    if former is not None and _unaltered(former):
        return former
    found = tuple(_containers(modules))
    kept, empty = tuple(one for one in found if one.then), tuple(one for one in found if not one.then)
    return Contents(kept, empty, tuple(_plain_tensors(kept)), dict(_buffers(kept)), _tied(kept))


def _unaltered(former: Contents) -> bool:
    """Return whether every container holds what it held."""
    return not any(one.container for one in former.empty) and all(map(_holds, former.kept))


def _holds(kept: Kept) -> bool:
    """Return whether a container holds what it held."""
    now, then = kept.container, kept.then
    return then is not None and len(now) == len(then) and _same(now, then)


def _containers(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Kept]:
    """Yield every container whose contents a pass could change; most are empty, so these are not copied."""
    seen: set[int] = set()
    for path, owner in modules:
        own = owner.__dict__
        yield Kept(path, "", own, own.copy())
        for key, value in own.items():
            kind = type(value)
            if kind in _CONSTANT:
                continue
            inside = value if kind in _CONTAINERS else None if id(value) in seen else _inside(value)
            seen.add(id(value))
            if inside is not None:
                yield Kept(path, key, inside, inside.copy() if inside else None)


def _plain_tensors(kept: Iterable[Kept]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that are attributes of modules, neither parameters nor buffers."""
    for path, key, now, _ in kept:
        if not key and isinstance(now, dict):
            yield from ((f"{path}.{name}".lstrip("."), t) for name, t in now.items() if isinstance(t, Tensor))


def _buffers(kept: Iterable[Kept]) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers of all modules, each under its first name."""
    seen: set[int] = set()
    for path, key, now, _ in kept:
        if key == "_buffers" and isinstance(now, dict):
            for name, buffer in now.items():
                if buffer is not None and id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield f"{path}.{name}".lstrip("."), buffer


def _tied(kept: Iterable[Kept]) -> bool:
    registered = [one.container for one in kept if one.key in ("_parameters", "_buffers")]
    found = [id(t) for own in registered if isinstance(own, dict) for t in own.values() if t is not None]
    return len(set(found)) < len(found)


def _inside(value: object) -> Container | None:
    """Return the contents of an attribute that can change: of a container, or the attributes of a configuration."""
    if isinstance(value, dict | list | set):
        return value
    if isinstance(value, nn.Module | Tensor | type) or callable(value):
        return None
    return getattr(value, "__dict__", None)


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
    if isinstance(now, list):
        now[:] = then
    elif isinstance(now, set):
        now.clear()
        now.update(then)
    return [f"{path}.{key}".lstrip(".")]


def _same(now: Container, then: Container) -> bool:
    """Return whether two containers of equal size hold the same objects."""
    if isinstance(now, dict) and isinstance(then, dict):
        return all(map(operator.is_, now.values(), then.values())) and list(now) == list(then)
    return now == then if isinstance(now, set) else all(map(operator.is_, now, then))


_NOTHING = object()


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, where torch counts it."""
    return 0 if tensor.is_inference() else tensor._version
