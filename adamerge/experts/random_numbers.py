"""Random numbers of a seed inside a block, and the random states as they were after it."""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


@contextmanager
def same_random_numbers(seed: int | None, device: torch.device) -> Generator[Callable[[], bool]]:
    """Draw the random numbers of a seed inside the block, and leave the random state as it is.

    Args:
        seed: Seed; None leaves everything as it is.
        device: Device of the computation.

    Yields:
        A function that returns, after the block, whether random numbers were drawn in it.

    Example:
        >>> with same_random_numbers(0, torch.device("cpu")) as drawn:
        ...     _ = torch.rand(1)
        >>> drawn()
        True
    """
    found: list[bool] = []
    if seed is None:
        yield lambda: False
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        _seed(seed, device)
        before = _random_state(device)
        try:
            yield lambda: any(found)
        finally:
            found.append(not torch.equal(before, _random_state(device)))


@contextmanager
def same_other_numbers(seed: int) -> Generator[Callable[[], bool]]:
    """Do for the generators of Python and numpy what `same_random_numbers` does for torch's; takes ten times as long.

    Args:
        seed: Seed.

    Yields:
        A function that returns, after the block, whether random numbers were drawn in it.

    Example:
        >>> with same_other_numbers(0) as drawn:
        ...     first = random.random()
        >>> with same_other_numbers(0):
        ...     drawn(), random.random() == first
        (True, True)
    """
    found: list[bool] = []
    before, start = _other_states(), _seeded(seed)
    _set_other_states(start)
    try:
        yield lambda: any(found)
    finally:
        python, (kind, numbers, *rest) = _other_states()
        same = python == start[0] and rest == [*start[1][2:]] and np.array_equal(numbers, start[1][1])
        found.append(not same or kind != start[1][0])
        _set_other_states(before)


def _other_states() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return random.getstate(), cast(tuple[Any, ...], np.random.get_state())


def _set_other_states(states: tuple[tuple[Any, ...], tuple[Any, ...]]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])


@cache
def _seeded(seed: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return random.Random(seed).getstate(), cast(tuple[Any, ...], np.random.RandomState(seed).get_state())


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of the device; for CUDA that is not in use torch would note each call."""
    if device.type == "cuda":
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _random_state(device: torch.device) -> Tensor:
    """Return the random state of the CPU, and of the device if it has one of its own."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cat([torch.get_rng_state(), *own])


class RandomNumbers:
    """A sequence of random numbers that is drawn in several pieces, between which others draw theirs.

    Args:
        seed: Seed of the sequence.
        device: Device of the computation.

    Attributes:
        start: State of the generators at the beginning.
        state: State where the next piece begins; the same object while nothing is drawn.

    Example:
        >>> one, same = RandomNumbers(0, torch.device("cpu")), RandomNumbers(0, torch.device("cpu"))
        >>> with one.drawn():
        ...     first = torch.rand(2)
        >>> with same.drawn():
        ...     second = torch.rand(2)
        >>> torch.equal(first, second), torch.equal(one.state, same.state)
        (True, True)
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with same_random_numbers(seed, device):
            self.state = self.start = _random_state(device)

    @contextmanager
    def drawn(self, state: Tensor | None = None) -> Generator[None]:
        """Draw the next piece inside the block, and leave the random state outside as it is.

        Args:
            state: Draw from this state again instead, and leave the sequence where it is.
        """
        start = self.state if state is None else state
        before = _random_state(self._device)
        _set_random_state(start, self._device)
        try:
            yield
        finally:
            after = _random_state(self._device)
            _set_random_state(before, self._device)
            if state is None and not torch.equal(start, after):
                self.state = after


def _set_random_state(state: Tensor, device: torch.device) -> None:
    own = len(torch.get_rng_state())
    torch.set_rng_state(state[:own])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[own:], device)
