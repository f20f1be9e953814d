"""Rows of the tensors of a checkpoint, as one of several processes reads them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from adamerge.storage.weights import Header, Weights


class SomeRows(Weights):
    """Rows of the tensors of another checkpoint; of mapped files no others are read.

    Args:
        source: Checkpoint with the tensors.
        rows: Rows (first dimension) of each tensor; other tensors are left out. Of a scalar they say nothing.

    Example:
        >>> from adamerge.storage.weights import InMemory
        >>> SomeRows(InMemory({"w": torch.arange(6).view(3, 2)}), {"w": slice(1, 3)})["w"].tolist()
        [[2, 3], [4, 5]]
    """

    def __init__(self, source: Weights, rows: Mapping[str, slice]) -> None:
        self._source, self._rows = source, rows
        self._headers = {name: _header_of(source.headers[name], own) for name, own in rows.items()}

    def __getitem__(self, name: str) -> Tensor:
        whole = self._source[name]
        return whole[self._rows[name]] if whole.ndim else whole


def _header_of(whole: Header, rows: slice) -> Header:
    """Return the header of some rows of a tensor."""
    if not whole.shape:
        return whole
    return Header(torch.Size([len(range(*rows.indices(whole.shape[0]))), *whole.shape[1:]]), whole.dtype)
