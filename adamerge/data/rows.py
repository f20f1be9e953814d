"""One task's rows, and how they become batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.batch import Batch


class Rows(ABC):
    """One task's rows; a modality's own class encodes them and pads them together."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def batch(self, indices: Sequence[int]) -> Batch:
        """Put the rows of these indices together into one batch, padded to one length."""

    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        """Sort indices by the length of their rows, where that saves padding and the order does not matter.

        The longest come first: later batches fit into the memory that the first ones gave back, and rows that do not
        fit at all fail at once.
        """
        return indices

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield all rows, or those of `indices`, in batches of `size` rows of similar length."""
        indices = self.by_length(range(len(self)) if indices is None else indices)
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])


class TensorRows(Rows):
    """Rows that are tensors already.

    Args:
        inputs: Keyword arguments of the module, each (N, …).
        labels: (N,) or None.
        positions: Which positions count, (N, S), or None.
    """

    def __init__(
        self, inputs: Mapping[str, Tensor], labels: Tensor | None = None, positions: Tensor | None = None
    ) -> None:
        self._inputs, self._labels, self._positions = dict(inputs), labels, positions

    def __len__(self) -> int:
        return len(next(iter(self._inputs.values())))

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(indices)
        labels, positions = (None if t is None else t[rows] for t in (self._labels, self._positions))
        return Batch({name: tensor[rows] for name, tensor in self._inputs.items()}, rows, positions, labels)


class Subset(Rows):
    """Some rows of another, under new indices."""

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self._rows, self._indices = rows, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        return self._rows.batch([self._indices[i] for i in indices])._replace(rows=torch.as_tensor(list(indices)))

    @override
    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        here = {self._indices[i]: i for i in indices}
        return [here[i] for i in self._rows.by_length(list(here))]


def first_rows(rows: Mapping[str, Rows], count: int) -> dict[str, Rows]:
    """Take at most `count` rows of every task; they were drawn at random before, so the first ones will do."""
    return {task: Subset(own, range(min(count, len(own)))) for task, own in rows.items()}


def move(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """Move a batch to the device of the computation, floating-point inputs to its dtype."""
    inputs = {n: t.to(device, dtype if t.is_floating_point() else None) for n, t in batch.inputs.items()}
    rest = (None if t is None else t.to(device) for t in (batch.positions, batch.labels))
    return Batch(inputs, batch.rows, *rest)


def count(batch: Batch) -> int:
    """Count what a mean over a batch is taken over: its rows, or the positions that count."""
    return len(batch.rows) if batch.positions is None else int(batch.positions.sum())
