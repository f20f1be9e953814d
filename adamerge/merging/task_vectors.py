"""combine and inner over base and experts; resident or mapped.

    combine:  merged[p][r, m] = centre[p][r, m] + Σₖ C[group of (p, r), k] · τₖ[p][r, m]
    inner:    ∂L/∂C[g, k] = Σ over the rows (p, r) of group g of Σₘ ∂L/∂merged[p][r, m] · τₖ[p][r, m]

Both walk the same tiles: the task vectors of all experts over some rows and columns of one parameter, (K, r, m).
Resident task vectors are one tile a parameter. Mapped ones are read from the page cache into a scratch tile of fixed
size, so anonymous memory does not grow with K.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.merging.grouping import Grouping
from adamerge.storage.digest import digest_of_json
from adamerge.storage.weights import Weights
from adamerge.types import Coefficients, Parameters

SCRATCH = 2**20
"""Numbers in the scratch tile of all experts together: 4 MiB in fp32, about a core's share of the cache."""


class Tile(NamedTuple):
    """Task vectors of all experts over some rows and columns of one parameter."""

    rows: slice
    columns: slice
    stack: Tensor  # (K, r, m)


class TaskVectors(ABC):
    """What coefficients weigh: K task vectors and the centre they are added to.

    Attributes:
        experts: Name of each expert, (K,).
        shapes: Shape of each parameter that has a task vector.
        dtype: In which everything is computed; fp32, or fp64 where the last bit counts.
        device: On which everything is computed.
    """

    experts: tuple[str, ...]
    shapes: Mapping[str, torch.Size]
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def centre(self, name: str) -> Tensor:
        """The centre of one parameter, in its own shape and in any dtype and device; it is not altered."""

    @abstractmethod
    def tiles(self, name: str) -> Iterator[Tile]:
        """The task vectors of one parameter, seen as a matrix (R, M); a tile is valid until the next one."""

    @abstractmethod
    def digest(self) -> str:
        """Hash of what the task vectors and their centre are read from, for the keys of kept results."""

    @abstractmethod
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        """Merge one parameter in fp64 on the CPU, from its source, for export.

        Terms with coefficient zero take no part, and plain task vectors are written out as (1 − Σₖ cₖ)·base +
        Σₖ cₖ·expertₖ: so a one-hot coefficient gives the expert bit for bit, however small its numbers are beside the
        base's, and zeros give the base.

        Args:
            name: The parameter.
            coefficients: (G, K).
            groups: The group of the whole of it, (1,), or of each of its rows, (R,).
        """

    def combine(self, coefficients: Coefficients, grouping: Grouping) -> dict[str, Tensor]:
        """Merge all parameters: merged[p] = centre[p] + Σₖ C[g(p), k]·τₖ[p], g(p) being the group of p or of its row.

        Args:
            coefficients: C, (G, K).
            grouping: Of the parameters that have task vectors.

        Returns:
            New tensors of the parameters' shapes, in `dtype` on `device`; views of one block of memory.
        """
        # One block is taken and given back whole; a few hundred would leave holes in the heap.
        starts = [0, *accumulate(_aligned(shape.numel()) for shape in self.shapes.values())]
        block = torch.empty(starts[-1], dtype=self.dtype, device=self.device)
        merged: dict[str, Tensor] = {}
        for start, (name, shape) in zip(starts, self.shapes.items(), strict=False):
            merged[name] = block[start : start + shape.numel()].view(shape)
            self._combine_into(merged[name], name, coefficients, grouping.rows[name])
        return merged

    @torch.no_grad()
    def _combine_into(self, out: Tensor, name: str, coefficients: Coefficients, groups: Tensor) -> None:
        """Merge one parameter, given the group of the whole of it, (1,), or of each of its rows, (R,)."""
        merged = _matrix(out.copy_(self.centre(name)))  # (R, M)
        weights = coefficients.detach().to(self.device, self.dtype)[groups.to(self.device)]
        weights = weights.expand(len(merged), -1).unsqueeze(1)  # (R, 1, K)
        with self._full_precision():
            for rows, columns, stack in self.tiles(name):
                part = merged[rows, columns].unsqueeze(1)  # (r, 1, m)
                part.baddbmm_(weights[rows], stack.transpose(0, 1))  # (r, 1, K) @ (r, K, m)

    @torch.no_grad()
    def inner(self, gradients: Parameters, grouping: Grouping) -> Coefficients:
        """Gradient in the coefficients from the gradient in the merged parameters.

        ∂L/∂C[g, k] = Σ over the parameters p of group g of ⟨∂L/∂merged[p], τₖ[p]⟩, with τₖ = expertₖ − base taken
        tile by tile; ⟨∂L/∂merged, expertₖ⟩ − ⟨∂L/∂merged, base⟩ would lose digits.

        Args:
            gradients: ∂L/∂merged by parameter; one that is absent counts as zero.
            grouping: The one that was combined with.

        Returns:
            ∂L/∂C, (G, K), in `dtype` on `device`.
        """
        total = torch.zeros(len(grouping), len(self.experts), dtype=self.dtype, device=self.device)
        for name, gradient in gradients.items():
            groups, products = grouping.rows[name].to(self.device), self.inner_one(name, gradient)
            total.index_add_(0, groups, products if len(groups) > 1 else products.sum(0, keepdim=True))
        return total

    @torch.no_grad()
    def inner_one(self, name: str, gradient: Tensor) -> Tensor:
        """⟨gradient, τₖ⟩ of one parameter, row by row, (R, K)."""
        gradient = _matrix(gradient.to(self.device, self.dtype)).unsqueeze(1)  # (R, 1, M)
        products = gradient.new_zeros(len(gradient), 1, len(self.experts))
        with self._full_precision():
            for rows, columns, stack in self.tiles(name):
                products[rows] += torch.bmm(gradient[rows, :, columns], stack.permute(1, 2, 0))  # (r, 1, m) @ (r, m, K)
        return products.squeeze(1)

    def stack(self, name: str) -> Tensor:
        """All task vectors of one parameter, (K, *shape): K·N numbers, for transforms of task vectors."""
        shape = self.shapes[name]
        stack = torch.empty(len(self.experts), *shape, dtype=self.dtype, device=self.device)
        matrices = stack.view(len(self.experts), *matrix_shape(shape))
        for rows, columns, part in self.tiles(name):
            matrices[:, rows, columns] = part
        return stack

    def _full_precision(self) -> torch.autocast:
        """Mixed precision is for the models: what is summed over experts is summed in `dtype`."""
        return torch.autocast(self.device.type, enabled=False)

    def stacks(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's name and stack, one at a time."""
        return ((name, self.stack(name)) for name in self.shapes)


class Mapped(TaskVectors):
    """Task vectors taken tile by tile from checkpoints, τₖ = expertₖ − base, or read as they are.

    Args:
        experts: Each expert's weights by its name.
        names: Parameters to merge.
        centre: What the task vectors are added to.
        base: What is subtracted from the experts; None where they hold task vectors already.
        dtype: Of the computation.
        device: Of the computation.
    """

    def __init__(
        self,
        experts: Mapping[str, Weights],
        names: Sequence[str],
        centre: Weights,
        base: Weights | None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.experts = tuple(experts)
        self.shapes = {name: centre.shape(name) for name in names}
        self.dtype = dtype
        self.device = torch.device(device)
        self._weights = tuple(experts.values())
        self._centre = centre
        self._base = base
        # One for all parameters: a new one for each would leave holes in the heap between the merged ones.
        self._scratch = torch.empty(max(SCRATCH, len(experts)), dtype=dtype, device=device)

    @override
    def centre(self, name: str) -> Tensor:
        return self._centre[name]

    @override
    def digest(self) -> str:
        sources = (*self._weights, self._centre, *([] if self._base is None else [self._base]))
        return digest_of_json([self.experts, list(self.shapes), str(self.dtype), [one.digest() for one in sources]])

    @override
    @torch.no_grad()
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        weights = coefficients.detach().cpu().double()[groups.cpu()]  # (1 or R, K)
        terms = list(zip(self._weights, weights.unsqueeze(2).unbind(1), strict=True))
        rest = 1 - weights.sum(1, keepdim=True) if self._base is not None else torch.ones_like(weights[:, :1])
        if self._base is not None and self._base is not self._centre:
            terms += [(self._base, rest - 1)]
            rest = torch.ones_like(rest)
        shape = matrix_shape(self.shapes[name])
        total = torch.full(shape, -0.0, dtype=torch.float64)  # what leaves every number as it is when added, −0 too
        for source, weight in [(self._centre, rest), *terms]:
            values = _matrix(source[name])
            for rows, columns in _windows(*shape, SCRATCH):
                factor = weight[rows] if len(weight) > 1 else weight
                part = total[rows, columns]
                part.copy_(torch.where(factor != 0, part + factor * values[rows, columns].double(), part))
        return total.view(self.shapes[name])

    @override
    def tiles(self, name: str) -> Iterator[Tile]:
        sources = [_matrix(weights[name]) for weights in self._weights]
        base = None if self._base is None else _matrix(self._base[name])
        room = len(self._scratch) // len(sources)
        rows, columns = sources[0].shape
        for r, m in _windows(rows, columns, room):
            shape = sources[0][r, m].shape
            stack = self._scratch[: len(sources) * shape.numel()].view(len(sources), *shape)
            offset = None if base is None else base[r, m].to(self.device, self.dtype)
            for source, vector in zip(sources, stack, strict=True):
                if offset is None:
                    vector.copy_(source[r, m])
                else:
                    torch.sub(source[r, m].to(self.device), offset, out=vector)
            yield Tile(r, m, stack)


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
    def tiles(self, name: str) -> Iterator[Tile]:
        stack = self._stacks[name].view(len(self.experts), *matrix_shape(self.shapes[name]))
        yield Tile(slice(None), slice(None), stack)

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


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """A parameter as a matrix: (R, M), R output channels; a vector or a scalar is one row.

    Example:
        >>> matrix_shape(torch.Size([64, 3, 7, 7])), matrix_shape(torch.Size([64]))
        ((64, 147), (1, 64))
    """
    rows = shape[0] if len(shape) > 1 else 1
    return rows, shape.numel() // rows


def _aligned(numbers: int) -> int:
    """Room for that many numbers such that the next ones begin at a cache line."""
    return -(-numbers // 16) * 16


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(matrix_shape(tensor.shape))


def _windows(rows: int, columns: int, room: int) -> Iterator[tuple[slice, slice]]:
    """Cut a matrix into windows of at most `room` numbers: whole rows where one fits, else pieces of a row."""
    if columns > room:
        for r in range(rows):
            for start in range(0, columns, room):
                yield slice(r, r + 1), slice(start, min(start + room, columns))
        return
    step = max(1, room // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows)), slice(0, columns)
