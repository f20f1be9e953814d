"""Task vectors held in memory: one stack of all experts per bundle, which is its only tile."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.merging.exact import Exact
from adamerge.merging.matrices import matrix_shape
from adamerge.merging.task_vectors import Bundle, TaskVectors, Tile, bundled
from adamerge.storage.digest import FileDigest, FileIdentity
from adamerge.types import Coefficients


class Resident(TaskVectors):
    """Task vectors held in memory, one (K, N) stack per bundle: the fast form where K + 1 models fit.

    Args:
        source: The task vectors to hold; their dtype and device are kept.
        together: Whether parameters of one shape share a stack; by default on a GPU.
    """

    def __init__(self, source: TaskVectors, together: bool | None = None) -> None:
        self.experts, self.shapes = source.experts, source.shapes
        self.dtype, self.device = source.dtype, source.device
        together = source.device.type == "cuda" if together is None else together
        self.bundles = bundled({name: (source.centre(name).dtype, *shape) for name, shape in self.shapes.items()})
        self.bundles = self.bundles if together else tuple((name,) for name in self.shapes)
        self._source = source
        self._centre = {bundle: source.centre_of(bundle).to(source.device) for bundle in self.bundles}
        self._stacks = {bundle: source.stack_of(bundle) for bundle in self.bundles}
        self._places = {name: (bundle, number) for bundle in self.bundles for number, name in enumerate(bundle)}

    @override
    def centre_of(self, bundle: Bundle) -> Tensor:
        return self._centre[bundle] if bundle in self._centre else self._part(self._centre, *bundle)

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
    def part(self, rows: Mapping[str, slice]) -> "Resident":
        return Resident(self._source.part(rows))

    @override
    def tiles(self, bundles: Iterable[Bundle]) -> Iterator[Tile]:
        for bundle in bundles:
            yield Tile(bundle, slice(None), slice(None), self.stack_of(bundle))

    @override
    def stack_of(self, bundle: Bundle) -> Tensor:
        return self._stacks[bundle] if bundle in self._stacks else self._part(self._stacks, *bundle)

    def _part(self, held: Mapping[Bundle, Tensor], name: str) -> Tensor:
        """Return the rows of one parameter of what is held for its bundle, (…, R, M)."""
        bundle, number = self._places[name]
        rows, _ = matrix_shape(self.shapes[name])
        return held[bundle].narrow(-2, number * rows, rows)


def leaves_room(needed: int, room: int) -> bool:
    """Return whether task vectors of `needed` bytes may be held without being asked for: in less than half of the room.

    Example:
        >>> leaves_room(3, 8), leaves_room(4, 8)
        (True, False)
    """
    return 2 * needed < room


def resident_bytes(shapes: Mapping[str, torch.Size], experts: int, dtype: torch.dtype = torch.float32) -> int:
    """Count the bytes that `Resident` needs for the stacks: K·N numbers per parameter.

    Args:
        shapes: Shape of each parameter.
        experts: K.
        dtype: Of the stacks.

    Example:
        >>> resident_bytes({"w": torch.Size([2, 3])}, experts=4)
        96
    """
    return sum(shape.numel() for shape in shapes.values()) * experts * dtype.itemsize
