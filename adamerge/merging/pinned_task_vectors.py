"""Task vectors in mapped files, copied to a GPU through pinned memory ahead of their use.

A ring of slots, each a block of pinned memory and a block on the device. While the device computes with one slot, its
copy engine fills the next one, and the CPU reads the one after that from the page cache:

    files → pinned[i + 2]      pinned[i + 1] → device[i + 1]      device[i] → τ of all experts → combine or inner

Only the experts travel, as raw numbers in their files' dtype. The centre, one model, stays on the device.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, cycle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.merging.exact import Exact, windows
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.matrices import matrix_shape
from adamerge.merging.task_vectors import Bundle, TaskVectors, Tile, bundled
from adamerge.storage.digest import FileDigest, FileIdentity
from adamerge.types import Coefficients

SLOTS = 3
"""Slots of the ring: one to read into, one to copy, one to compute with."""

SLOT_BYTES = 2**26
"""Bytes of all experts together in a slot: enough that a copy takes far longer than its launch."""

_ALIGNED = 256
"""Bytes at whose multiples the experts' parts of a slot begin."""


class Window(NamedTuple):
    """Some rows and columns of a bundle."""

    bundle: Bundle
    rows: slice
    columns: slice


class Pinned(TaskVectors):
    """Task vectors in mapped files, copied to the device ahead of use.

    Args:
        source: The task vectors in files; their dtype and device are kept.
        slot_bytes: Bytes of all experts together in a slot.
    """

    def __init__(self, source: Mapped, slot_bytes: int = SLOT_BYTES) -> None:
        self.experts, self.shapes = source.experts, source.shapes
        self.dtype, self.device = source.dtype, source.device
        self.bundles = bundled({name: (*shape, *source.dtypes(name)) for name, shape in self.shapes.items()})
        self._source, self._slot_bytes = source, slot_bytes
        self._centre: dict[Bundle, Tensor] = {}
        self._mapped: dict[str, list[Tensor]] = {}

    @override
    def centre_of(self, bundle: Bundle) -> Tensor:
        if bundle not in self._centre:  # copied at first use: whoever only runs experts needs none
            centre = self._source.centre_of(bundle).to(self.device)
            if bundle not in self.bundles:
                return centre
            self._centre[bundle] = centre
        return self._centre[bundle]

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._source.files

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        return self._source.digest(file)

    @override
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        return self._source.combine_exactly(name, coefficients, groups)

    @override
    def exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Iterator[Exact]:
        return self._source.exactly(name, coefficients, groups)

    @override
    def part(self, rows: Mapping[str, slice]) -> "Pinned":
        return Pinned(self._source.part(rows))

    @override
    def tiles(self, bundles: Iterable[Bundle]) -> Iterator[Tile]:
        size = max(self._slot_bytes, _ALIGNED) + _ALIGNED * len(self.experts)
        queue = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        slots = cycle([_Slot(size, self.device, queue) for _ in range(SLOTS)])
        under_way: deque[tuple[Window, _Slot, list[Tensor]]] = deque()
        for window, pieces in self._windows(bundles):
            if len(under_way) == SLOTS:
                yield self._tile(*under_way.popleft())
            slot = next(slots)
            under_way.append((window, slot, slot.send(pieces)))
        while under_way:
            yield self._tile(*under_way.popleft())

    def _windows(self, bundles: Iterable[Bundle]) -> Iterator[tuple[Window, list[list[Tensor]]]]:
        """Cut bundles into windows that fit into a slot, each with every expert's numbers, parameter by parameter."""
        for bundle in bundles:
            sources = [self._sources(name) for name in bundle]  # P × K matrices (R, M)
            room = max(1, self._slot_bytes // sum(source.itemsize for source in sources[0]))
            height, width = matrix_shape(self.shapes[bundle[0]])
            for rows, columns in windows(len(bundle) * height, width, room):
                within = list(_by_parameter(rows, height))
                pieces = [
                    [own[k][r, columns] for number, r in within for own in [sources[number]]]
                    for k in range(len(self.experts))
                ]
                yield Window(bundle, rows, columns), pieces

    def _sources(self, name: str) -> list[Tensor]:
        """Keep every expert's matrix (R, M); looking them up in every pass would take longer than copying."""
        if name not in self._mapped:
            self._mapped[name] = self._source.sources(name)
        return self._mapped[name]

    def _tile(self, window: Window, slot: "_Slot", sent: list[Tensor]) -> Tile:
        """Subtract the base from what has arrived; the slot is free as soon as the device has done so."""
        stack = torch.empty(len(sent), *sent[0].shape, dtype=self.dtype, device=self.device)
        base = self._base(window)
        slot.arrive()
        for source, vector in zip(sent, stack, strict=True):
            if base is None:
                vector.copy_(source)
            else:
                torch.sub(source, base, out=vector)
        slot.release()
        return Tile(*window, stack)

    def _base(self, window: Window) -> Tensor | None:
        """Return what is subtracted from the experts, on the device in the dtype of the computation."""
        bundle, rows, columns = window
        if self._source.subtracts_centre:
            return self.centre_of(bundle)[rows, columns].to(self.dtype)
        bases = [base for name in bundle if (base := self._source.base(name)) is not None]
        return torch.cat(bases)[rows, columns].to(self.device, self.dtype) if bases else None


class _Slot:
    """A block of pinned memory and a block on the device; without a queue of copies, ordinary memory.

    Args:
        size: Bytes of each.
        device: Where to copy to.
        queue: The stream of copies of a CUDA device.
    """

    def __init__(self, size: int, device: torch.device, queue: torch.cuda.Stream | None) -> None:
        self._host = torch.empty(size, dtype=torch.uint8, pin_memory=queue is not None)
        self._device = torch.empty(size, dtype=torch.uint8, device=device)
        self._queue = queue
        self._arrived, self._released = (torch.cuda.Event(), torch.cuda.Event()) if queue else (None, None)
        self.release()  # the block may be memory that earlier work still uses

    def send(self, experts: list[list[Tensor]]) -> list[Tensor]:
        """Begin to copy every expert's numbers to the device.

        Args:
            experts: Per expert matrices (r, m) of one width and dtype, one below the other.

        Returns:
            Every expert's numbers on the device, (Σ r, m), valid from `arrive` to `release`.
        """
        if self._arrived:
            self._arrived.synchronize()  # the pinned block is read until then
        sizes = [sum(piece.nbytes for piece in pieces) for pieces in experts]
        starts = [0, *accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]
        places = [slice(start, start + size) for start, size in zip(starts, sizes, strict=False)]
        for place, pieces in zip(places, experts, strict=True):
            _fill(self._host[place].view(pieces[0].dtype).view(-1, pieces[0].shape[1]), pieces)
        if self._queue and self._arrived and self._released:
            with torch.cuda.stream(self._queue):
                self._queue.wait_event(self._released)
                self._device[: starts[-1]].copy_(self._host[: starts[-1]], non_blocking=True)
                self._arrived.record(self._queue)
        else:
            self._device[: starts[-1]].copy_(self._host[: starts[-1]])
        return [
            self._device[place].view(pieces[0].dtype).view(-1, pieces[0].shape[1])
            for place, pieces in zip(places, experts, strict=True)
        ]

    def arrive(self) -> None:
        """Let the device's work from here on wait for the copy."""
        if self._arrived:
            torch.cuda.current_stream(self._device.device).wait_event(self._arrived)

    def release(self) -> None:
        """Let the next copy into this slot wait for the device's work until here."""
        if self._released:
            self._released.record(torch.cuda.current_stream(self._device.device))


def _fill(matrix: Tensor, pieces: list[Tensor]) -> None:
    """Copy matrices one below the other."""
    start = 0
    for piece in pieces:
        matrix[start : start + len(piece)].copy_(piece)
        start += len(piece)


def _by_parameter(rows: slice, height: int) -> Iterator[tuple[int, slice]]:
    """Divide rows of a bundle among its parameters.

    Example:
        >>> list(_by_parameter(slice(2, 7), 3))
        [(0, slice(2, 3, None)), (1, slice(0, 3, None)), (2, slice(0, 1, None))]
    """
    for number in range(rows.start // height, -(-rows.stop // height)):
        start = number * height
        yield number, slice(max(rows.start - start, 0), min(rows.stop - start, height))
