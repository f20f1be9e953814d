"""Memory for tensors that are made one after the other, and written to disk: what was written makes room."""

from collections.abc import Iterable
from threading import Lock

import torch
from torch import Tensor


class Buffers:
    """Make tensors in memory that others have left, since the system clears every page of new memory when it is used.

    It holds as many buffers as tensors were in use together. Where all free ones are too small, the largest of these
    makes way for a new one.

    Example:
        >>> buffers = Buffers()
        >>> former = buffers.empty(torch.Size([2, 3]), torch.float32)
        >>> place = former.data_ptr()
        >>> buffers.give_back([former])
        >>> buffers.empty(torch.Size([3]), torch.float64).data_ptr() == place
        True
    """

    def __init__(self) -> None:
        self._used, self._free = dict[int, Tensor](), list[Tensor]()
        self._lock = Lock()

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a tensor with any values; it is valid until it is given back."""
        size = shape.numel() * dtype.itemsize
        with self._lock:
            own = next((number for number, one in enumerate(self._free) if len(one) >= size), None)
            if own is None:
                del self._free[-1:]
                buffer = torch.empty(size, dtype=torch.uint8)
            else:
                buffer = self._free.pop(own)
            self._used[buffer.data_ptr()] = buffer
        return buffer[:size].view(dtype).view(shape)

    def give_back(self, tensors: Iterable[Tensor]) -> None:
        """Let the memory of tensors be used again; those that were not made here are left alone."""
        with self._lock:
            found = (self._used.pop(tensor.data_ptr(), None) for tensor in tensors)
            self._free = sorted((*self._free, *(one for one in found if one is not None)), key=len)
