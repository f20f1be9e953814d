"""Many tensors in one block of memory, which is taken and given back whole.

The C library keeps what is freed in pieces below 32 MiB, so a model that is copied tensor by tensor and freed leaves
its size in holes, which what comes next fills only in part.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor

_LINE = 64
"""Bytes of a cache line, at which every tensor begins."""


def block_of(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device | str) -> list[Tensor]:
    """Allocate tensors in one block; each counts its changes in place alone.

    Args:
        shapes: Of the tensors.
        dtype: Of all of them.
        device: Of all of them.

    Example:
        >>> [tensor.shape for tensor in block_of([(2, 3), ()], torch.float32, "cpu")]
        [torch.Size([2, 3]), torch.Size([])]
    """
    sizes = [torch.Size(shape).numel() for shape in shapes]
    room = max(1, _LINE // dtype.itemsize)
    starts = [0, *accumulate(-(-size // room) * room for size in sizes)]
    block = torch.empty(starts[-1], dtype=dtype, device=device)
    # .data, because views share the counter of changes in place, by which it is seen what a pass changes.
    return [
        block[at : at + size].view(torch.Size(shape)).data
        for at, size, shape in zip(starts, sizes, shapes, strict=False)
    ]


def copies(tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], device: torch.device) -> dict[str, Tensor]:
    """Copy tensors into one block for each dtype, in the order of their names.

    Args:
        tensors: What is copied, without its history.
        dtypes: Dtype of each copy.
        device: Of the copies.

    Example:
        >>> one = {"a": torch.ones(2, dtype=torch.half), "b": torch.ones(1)}
        >>> copies(one, {"a": torch.float32, "b": torch.float32}, torch.device("cpu"))
        {'a': tensor([1., 1.]), 'b': tensor([1.])}
    """
    made: dict[str, Tensor] = {}
    for _, group in groupby(sorted(tensors, key=lambda name: str(dtypes[name])), key=lambda name: dtypes[name]):
        names = list(group)
        block = block_of([tensors[name].shape for name in names], dtypes[names[0]], device)
        for name, copy in zip(names, block, strict=True):
            made[name] = copy.copy_(tensors[name].detach())
    return made
