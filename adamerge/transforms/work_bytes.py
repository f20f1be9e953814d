"""Bytes that a transform takes for one tensor, from a run on small tensors of the same proportions.

What transforms hold of a matrix (R, M) are matrices again: R·M, R² or M² numbers, or of a share of them. So a stack
whose matrices have 1/s of the rows and columns takes 1/s² of the memory.
"""

# pyright: standard

import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from adamerge.experts.matrix_layouts import Layout, Layouts
from adamerge.transforms.transform import Transform

SIDE = 48
"""Longer side of the small matrices."""


def work_bytes(
    transform: Transform, shapes: Mapping[str, torch.Size], layouts: Layouts, count: int, dtype: torch.dtype
) -> int | None:
    """Estimate the bytes that a transform takes at once, the stack of all experts among them.

    Args:
        transform: The transform.
        shapes: Shape of each parameter.
        layouts: How parameters hold their matrices.
        count: K, the number of experts.
        dtype: Of the stack.

    Returns:
        The most that any tensor takes; None if the transform cannot be tried without rows.
    """
    split = {name: layouts[name] for name in shapes if name in layouts and transform.by_matrix}
    alone = {name: _matrix(shape, split.get(name)) for name, shape in shapes.items()}
    several = [3 * count * shapes[name].numel() * dtype.itemsize for name in split]  # as they are, alone, and joined
    at_once = None if transform.fisher else _tried(transform, tuple(alone.items()), count, dtype)
    return None if at_once is None else at_once + max(several, default=0)


def _matrix(shape: torch.Size, layout: Layout | None) -> torch.Size:
    """Return the shape of the matrix that a transform sees of a parameter."""
    return shape if layout is None else layout.split(torch.empty(1, *shape, device="meta"))[0].shape[1:]


@lru_cache(64)
def _tried(
    transform: Transform, shapes: tuple[tuple[str, torch.Size], ...], count: int, dtype: torch.dtype
) -> int | None:
    try:
        return max(_sizes(transform, dict(shapes), count, dtype), default=0)
    except (RuntimeError, ValueError):  # what it makes of random numbers is no concern here
        return None


def _sizes(transform: Transform, shapes: Mapping[str, torch.Size], count: int, dtype: torch.dtype) -> Iterator[int]:
    """Yield the bytes for one parameter of each shape."""
    small = {name: _small(shape) for name, shape in shapes.items()}
    draw = torch.Generator().manual_seed(0)

    def stack(name: str) -> Tensor:
        return torch.randn(count, *small[name], dtype=dtype, generator=draw)

    apply = transform.plan(lambda: ((name, stack(name)) for name in small))
    for name in {shape: name for name, shape in shapes.items()}.values():
        own = stack(name)
        with _Counted(own.nbytes) as counted:
            apply(name, own)
        yield round(counted.most * shapes[name].numel() / max(1, small[name].numel()))


def _small(shape: torch.Size) -> torch.Size:
    """Shrink both sides of a matrix by one factor; further dimensions stay."""
    if len(shape) < 2:
        return shape
    scale = max(1.0, max(shape[:2]) / SIDE)
    return torch.Size([*(max(1, round(side / scale)) for side in shape[:2]), *shape[2:]])


class _Counted(TorchDispatchMode):
    """Counts the bytes of tensors that live at once.

    Attributes:
        most: The most so far.
    """

    def __init__(self, held: int) -> None:
        super().__init__()
        self.most = self._now = held
        self._alive: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {one.untyped_storage()._cdata for one in trees.tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        for one in trees.tree_leaves(output):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in given:
                self._watch(one.untyped_storage())
        return output

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._alive:
            self._alive.add(storage)
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self._now -= size
