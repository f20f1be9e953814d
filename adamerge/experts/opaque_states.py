"""States that are copied as a whole: of tensors, arrays, generators of random numbers and objects with slots."""

import pickle
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Opaque(NamedTuple):
    """Something whose state a forward pass could change, and that is no container.

    Attributes:
        value: It.
        state: Copies its state.
        restore: Takes such a copy back; returns whether the state had changed.
    """

    value: Any
    state: Callable[[Any], Any]
    restore: Callable[[Any, Any], bool]


def opaque(value: object) -> Opaque | None:
    """Return how the state of an object is copied; None of containers, parameters and what has no state.

    Example:
        >>> numbers = random.Random(0)
        >>> kept = opaque(numbers)
        >>> before, first = kept.state(numbers), numbers.random()
        >>> kept.restore(numbers, before), numbers.random() == first
        (True, True)
    """
    how = _how(type(value))
    return None if how is None else Opaque(value, *how)


@cache
def _how(kind: type) -> tuple[Callable[[Any], Any], Callable[[Any, Any], bool]] | None:
    if issubclass(kind, nn.Parameter):
        return None
    found = next((how for known, how in _KINDS.items() if issubclass(kind, known)), None)
    return found or ((_slots, _restore_slots) if slots_of(kind) else None)


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, where torch counts it."""
    return 0 if tensor.is_inference() else tensor._version


@cache
def slots_of(kind: type) -> tuple[str, ...]:
    """List the slots of a class whose objects have no other attributes, and that is written in Python."""
    if kind.__dictoffset__ or issubclass(kind, tuple):
        return ()
    listed = [one for own in kind.__mro__ for one in (own.__dict__.get("__slots__") or ())]
    return tuple(name for name in listed if isinstance(name, str) and not name.startswith("__"))


def _slots(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in slots_of(type(value)) if hasattr(value, name)}


def _restore_slots(value: object, before: Mapping[str, object]) -> bool:
    now = _slots(value)
    for name in now.keys() - before.keys():
        delattr(value, name)
    changed = [name for name, former in before.items() if now.get(name, _slots) is not former]
    for name in changed:
        setattr(value, name, before[name])
    return bool(changed) or len(now) > len(before)


def _tensor(tensor: Tensor) -> tuple[int, Tensor]:
    return version_of(tensor), tensor.clone()


def _restore_tensor(tensor: Tensor, before: tuple[int, Tensor]) -> bool:
    """Restore a tensor; what is written through `data` or numpy has no new version."""
    version, copy = before
    if tensor.shape != copy.shape:
        tensor.data = copy
        return True
    if version_of(tensor) == version and (type(tensor) is not Tensor or _equal(tensor, copy)):
        return False
    with torch.no_grad():
        tensor.copy_(copy)
    return True


def _equal(one: Tensor, two: Tensor) -> bool:
    if one.is_meta or one.layout is not torch.strided or one.is_quantized or torch.equal(one, two):
        return True
    return bool(((one == two) | ((one != one) & (two != two))).all())  # what is no number equals itself here


def _restore_generator(generator: torch.Generator, before: Tensor) -> bool:
    changed = not torch.equal(generator.get_state(), before)
    if changed:
        generator.set_state(before)
    return changed


def _restore_random(numbers: random.Random, before: Any) -> bool:  # noqa: ANN401 - as Python returns it
    changed = numbers.getstate() != before
    if changed:
        numbers.setstate(before)
    return changed


def _restore_array(array: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> bool:
    changed = array.tobytes() != before.tobytes()
    if changed:
        np.copyto(array, before)
    return changed


def _numpy(numbers: Any) -> bytes:  # noqa: ANN401 - one of numpy's two kinds
    return pickle.dumps(_bits(numbers).state)


def _restore_numpy(numbers: Any, before: bytes) -> bool:  # noqa: ANN401
    changed = _numpy(numbers) != before
    if changed:
        _bits(numbers).state = pickle.loads(before)
    return changed


def _bits(numbers: Any) -> Any:  # noqa: ANN401
    return numbers.bit_generator if isinstance(numbers, np.random.Generator) else numbers._bit_generator


_KINDS: Mapping[type, tuple[Callable[[Any], Any], Callable[[Any, Any], bool]]] = {
    Tensor: (_tensor, _restore_tensor),
    torch.Generator: (torch.Generator.get_state, _restore_generator),
    random.Random: (random.Random.getstate, _restore_random),
    np.ndarray: (np.ndarray.copy, _restore_array),
    np.random.Generator: (_numpy, _restore_numpy),
    np.random.RandomState: (_numpy, _restore_numpy),
}
