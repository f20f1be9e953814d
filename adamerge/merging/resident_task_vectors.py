"""Task vectors held in memory: one stack of all experts per parameter, which is its only tile."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.merging.task_vectors import TaskVectors, Tile, matrix_shape
from adamerge.types import Coefficients


class Resident(TaskVectors):
    """Task vectors held in memory, one (K, N) stack a parameter: the fast form where K + 1 models fit.

    Args:
        source: The task vectors to hold; their dtype and device are kept.
    """

    def __init__(self, source: TaskVectors) -> None:
        self.experts, self.shapes = source.experts, source.shapes
        self.dtype, self.device = source.dtype, source.device
        self._source = source
        self._centre = {name: source.centre(name).to(source.device) for name in source.shapes}
        self._stacks = {name: source.stack(name) for name in source.shapes}

    @override
    def centre(self, name: str) -> Tensor:
        return self._centre[name]

    @override
    def digest(self) -> str:
        return self._source.digest()

    @override
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        return self._source.combine_exactly(name, coefficients, groups)

    @override
    def tiles(self, names: Iterable[str]) -> Iterator[Tile]:
        for name in names:
            stack = self._stacks[name].view(len(self.experts), *matrix_shape(self.shapes[name]))
            yield Tile(name, slice(None), slice(None), stack)

    @override
    def stack(self, name: str) -> Tensor:
        return self._stacks[name]


def resident_bytes(shapes: Mapping[str, torch.Size], experts: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that `Resident` needs for the stacks: K·N numbers a parameter.

    Args:
        shapes: Shape of each parameter.
        experts: K.
        dtype: Of the stacks.

    Example:
        >>> resident_bytes({"w": torch.Size([2, 3])}, experts=4)
        96
    """
    return sum(shape.numel() for shape in shapes.values()) * experts * dtype.itemsize
