"""Task vectors in mapped files, copied to a GPU through pinned memory ahead of their use.

A ring of slots, each a block of pinned memory and a block on the device. While the device computes with one slot, its
copy engine fills the next one, and the CPU reads the one after that from the page cache:

    files → pinned[i + 2]      pinned[i + 1] → device[i + 1]      device[i] → τ of all experts → combine or inner

Only the experts travel, as raw numbers in their files' dtype. The centre, one model, stays on the device.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate, cycle
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.merging.mapped_task_vectors import Mapped, windows
from adamerge.merging.task_vectors import TaskVectors, Tile, as_matrix
from adamerge.types import Coefficients

SLOTS = 3
"""Slots of the ring: one to read into, one to copy, one to compute with."""

SLOT_BYTES = 2**26
"""Bytes of all experts together in a slot: enough that a copy takes far longer than its launch."""

_ALIGNED = 256
"""Bytes at whose multiples the experts' parts of a slot begin."""


class Window(NamedTuple):
    """Some rows and columns of one parameter."""

    name: str
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
        self._source, self._slot_bytes = source, slot_bytes
        self._centre: dict[str, Tensor] = {}

    @override
    def centre(self, name: str) -> Tensor:
        if name not in self._centre:  # copied at first use: whoever only runs experts needs none
            self._centre[name] = self._source.centre(name).to(self.device)
        return self._centre[name]

    @override
    def digest(self) -> str:
        return self._source.digest()

    @override
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        return self._source.combine_exactly(name, coefficients, groups)

    @override
    def tiles(self, names: Iterable[str]) -> Iterator[Tile]:
        size = max(self._slot_bytes, _ALIGNED) + _ALIGNED * len(self.experts)
        queue = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        slots = cycle(_Slot(size, self.device, queue) for _ in range(SLOTS))
        under_way: deque[tuple[Window, _Slot, list[Tensor]]] = deque()
        for window in self._windows(names):
            if len(under_way) == SLOTS:
                yield self._tile(*under_way.popleft())
            slot = next(slots)
            under_way.append((window, slot, slot.send(self._sources(window))))
        while under_way:
            yield self._tile(*under_way.popleft())

    def _windows(self, names: Iterable[str]) -> Iterator[Window]:
        for name in names:
            sources = self._source.sources(name)
            room = max(1, self._slot_bytes // sum(source.itemsize for source in sources))
            count, width = sources[0].shape
            yield from (Window(name, rows, columns) for rows, columns in windows(count, width, room))

    def _sources(self, window: Window) -> list[Tensor]:
        name, rows, columns = window
        return [source[rows, columns] for source in self._source.sources(name)]

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
        """What is subtracted from the experts, on the device in the dtype of the computation."""
        name, rows, columns = window
        source = self._source
        base = as_matrix(self.centre(name)) if source.subtracts_centre else source.base(name)
        return None if base is None else base[rows, columns].to(self.device, self.dtype)


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

    def send(self, tensors: list[Tensor]) -> list[Tensor]:
        """Begin to copy tensors to the device; return them there, valid from `arrive` to `release`."""
        if self._arrived:
            self._arrived.synchronize()  # the pinned block is read until then
        starts = [0, *accumulate(-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors)]
        for start, tensor in zip(starts, tensors, strict=False):
            _part(self._host, start, tensor).copy_(tensor)
        if self._queue and self._arrived and self._released:
            with torch.cuda.stream(self._queue):
                self._queue.wait_event(self._released)
                self._device[: starts[-1]].copy_(self._host[: starts[-1]], non_blocking=True)
                self._arrived.record(self._queue)
        else:
            self._device[: starts[-1]].copy_(self._host[: starts[-1]])
        return [_part(self._device, start, tensor) for start, tensor in zip(starts, tensors, strict=False)]

    def arrive(self) -> None:
        """Let the device's work from here on wait for the copy."""
        if self._arrived:
            torch.cuda.current_stream(self._device.device).wait_event(self._arrived)

    def release(self) -> None:
        """Let the next copy into this slot wait for the device's work until here."""
        if self._released:
            self._released.record(torch.cuda.current_stream(self._device.device))


def _part(block: Tensor, start: int, like: Tensor) -> Tensor:
    """View bytes of a block as a tensor of the dtype and shape of another."""
    return block[start : start + like.nbytes].view(like.dtype).view(like.shape)
