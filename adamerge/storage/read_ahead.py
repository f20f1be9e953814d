"""Ask the system for tensors of files before they are read, so that a disk works while a processor does."""

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from adamerge.storage.weights import Weights


def read_ahead(weights: Iterable[Weights], names: Iterable[str], most: int) -> int:
    """Ask for tensors that will be read soon; waits for none of them.

    A hint only: without `posix_fadvise`, or where a file is gone, it does nothing. Tensors in memory have no file.

    Args:
        weights: Checkpoints.
        names: Tensors of each of them.
        most: Bytes to ask for, at most; beyond it none, since what is read too early is dropped again.

    Returns:
        The bytes that were asked for.

    Example:
        >>> import torch
        >>> from adamerge.storage.weights import InMemory
        >>> read_ahead([InMemory({"w": torch.zeros(2)})], ["w"], 1000)
        0
    """
    if not hasattr(os, "posix_fadvise"):
        return 0
    wanted, parts = list(names), defaultdict[str, dict[int, int]](dict)
    for one in weights:
        for name in wanted:
            file, start = one.place(name)
            if file:
                parts[file][start] = _bytes(one, name)
    total = sum(sum(own.values()) for own in parts.values())
    if total > most:
        return 0
    for file, own in parts.items():
        with suppress(OSError):
            _ask(file, sorted(own.items()))
    return total


def _bytes(weights: Weights, name: str) -> int:
    shape, dtype = weights.headers[name]
    return shape.numel() * dtype.itemsize


def _ask(file: str, parts: Iterable[tuple[int, int]]) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        for start, size in parts:
            os.posix_fadvise(handle, start, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(handle)
