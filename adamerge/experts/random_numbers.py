"""Random numbers of a seed inside a block, and the random states as they were after it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

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
        torch.manual_seed(seed)
        before = _random_state(device)
        try:
            yield lambda: any(found)
        finally:
            found.append(not torch.equal(before, _random_state(device)))


def _random_state(device: torch.device) -> Tensor:
    """Return the random state of the CPU, and of the device if it has one of its own."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cat([torch.get_rng_state(), *own])
