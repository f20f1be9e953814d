"""Files are read while models run: those of the parameters that come next, as steps take blocks in the same order."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.storage.memory import free_memory

Merge: TypeAlias = Callable[[Sequence[str]], dict[str, Tensor]]
"""Makes the merged parameters of some names."""

_SHARE = 4
"""Of the free memory, this part at most is asked for ahead."""


class ReadAhead:
    """Ask for what parameters are read from, in a thread of its own: that takes as long as the disk's queue is full.

    Args:
        vectors: Task vectors, which know what they are read from.
    """

    def __init__(self, vectors: TaskVectors) -> None:
        self._vectors, self._thread = vectors, ThreadPoolExecutor(1, "read-ahead")

    def ask(self, names: Sequence[str]) -> None:
        """Ask for those parameters among some that have task vectors; waits for nothing."""
        if known := [name for name in names if name in self._vectors.shapes]:
            self._thread.submit(self._vectors.read_ahead, known, free_memory() // _SHARE)


class NextBlock:
    """Ask for the files of the block that comes next, by the order of the step before.

    Args:
        ahead: Asks for parameters.
    """

    def __init__(self, ahead: ReadAhead) -> None:
        self._ahead, self._order = ahead, list[list[str]]()

    def step(self, merge: Merge) -> Merge:
        """Begin a step; returns a merge that makes the same, and then asks for what follows.

        Args:
            merge: Makes the parameters of one block.
        """
        former, now = self._order, list[list[str]]()
        self._order = now

        def merge_and_ask(names: Sequence[str]) -> dict[str, Tensor]:
            merged = merge(names)
            now.append(list(names))
            if former[len(now) - 1 : len(now)] == now[-1:]:
                self._ahead.ask([name for block in former[len(now) : len(now) + 1] for name in block])
            return merged

        return merge_and_ask
