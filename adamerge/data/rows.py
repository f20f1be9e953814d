"""One task's rows, and where they become batches: `Rows.batch`."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self, final

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.batch import Batch
from adamerge.data.padding import Padding
from adamerge.data.settings import Augmentation


class Padded(NamedTuple):
    """Some rows, padded to one length; the attributes are those of `Batch`."""

    inputs: Mapping[str, Tensor]
    positions: Tensor | None = None
    labels: Tensor | None = None


class Rows(ABC):
    """One task's rows; the subclass of a modality pads them.

    Attributes:
        padding: How rows are padded, and which of them share a forward pass.
        metric: What is measured on labeled rows, if it is not what their model's kind suggests.
    """

    padding: Padding = Padding()
    metric: str | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def padded(self, indices: Sequence[int]) -> Padded:
        """Pad the rows with these indices to one length."""

    @final
    def batch(self, indices: Sequence[int]) -> Batch:
        """Make one batch of the rows with these indices: every batch of every modality is made here."""
        inputs, positions, labels = self.padded(indices)
        return Batch(inputs, torch.as_tensor(list(indices)), positions, labels)

    def under(self, padding: Padding) -> Self:
        """Return the same rows under another padding."""
        changed = copy.copy(self)
        changed.padding = padding
        return changed

    def augmented(self, how: Augmentation, seed: int, indices: Sequence[int] | None = None) -> "Rows | None":
        """Return the rows with `indices` and changed copies of them; None if there is no way to change such rows.

        Args:
            how: Number of copies, and how much is changed.
            seed: Random seed of the changes.
            indices: Which rows; all by default.
        """
        del how, seed, indices
        return None

    def length(self, index: int) -> tuple[int, ...]:
        """Return the length of a row, for every part of it that is padded; empty if nothing is padded."""
        del index
        return ()

    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        """Sort indices by the length of their rows; the order must not matter to the caller.

        The longest rows come first: later batches then reuse the memory of the first ones, and rows that do not fit
        into memory fail immediately.
        """
        return sorted(indices, key=lambda index: [-length for length in self.length(index)])

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield all rows, or those with `indices`, in batches of at most `size` rows that may share a forward pass."""
        yield from map(self.batch, self.divided(size, indices))

    def divided(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Sequence[int]]:
        """Yield the indices of the rows of each batch; see `batches`."""
        order = self.by_length(range(len(self)) if indices is None else indices)
        return self.padding.split(order, self.length, size)


class TensorRows(Rows):
    """Rows that are tensors.

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
    def padded(self, indices: Sequence[int]) -> Padded:
        rows = torch.as_tensor(indices)
        labels, positions = (None if t is None else t[rows] for t in (self._labels, self._positions))
        return Padded({name: tensor[rows] for name, tensor in self._inputs.items()}, positions, labels)


class Subset(Rows):
    """A subset of other rows, under new indices."""

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self._rows, self._indices, self.padding = rows, list(indices), rows.padding

    def __len__(self) -> int:
        return len(self._indices)

    @override
    def padded(self, indices: Sequence[int]) -> Padded:
        return self._rows.padded([self._indices[i] for i in indices])

    @override
    def under(self, padding: Padding) -> "Subset":
        return Subset(self._rows.under(padding), self._indices)

    @override
    def augmented(self, how: Augmentation, seed: int, indices: Sequence[int] | None = None) -> Rows | None:
        own = self._indices if indices is None else [self._indices[i] for i in indices]
        return self._rows.augmented(how, seed, own)

    @override
    def length(self, index: int) -> tuple[int, ...]:
        return self._rows.length(self._indices[index])

    @override
    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        """Sort indices; a row that is drawn twice, at the end of one pass and the start of the next, counts once."""
        return super().by_length(list(dict.fromkeys(indices)))


def first_rows(rows: Mapping[str, Rows], count: int) -> dict[str, Rows]:
    """Return the first `count` rows of every task, or all if there are fewer; rows are in random order already."""
    return {task: Subset(own, range(min(count, len(own)))) for task, own in rows.items()}


def move(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """Move a batch to a device and convert its floating-point inputs to a dtype."""
    inputs = {n: t.to(device, dtype if t.is_floating_point() else None) for n, t in batch.inputs.items()}
    rest = (None if t is None else t.to(device) for t in (batch.positions, batch.labels))
    return Batch(inputs, batch.rows, *rest)


def count(batch: Batch) -> int:
    """Count the terms of a mean over a batch: its rows, or the positions that count."""
    return len(batch.rows) if batch.positions is None else int(batch.positions.sum())
