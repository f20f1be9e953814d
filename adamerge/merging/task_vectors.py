"""combine and inner: from coefficients to merged parameters, and back from their gradient.

    combine:  merged[p][r, m] = centre[p][r, m] + Σₖ C[group of (p, r), k] · τₖ[p][r, m]
    inner:    ∂L/∂C[g, k] = Σ over the rows (p, r) of group g of Σₘ ∂L/∂merged[p][r, m] · τₖ[p][r, m]

Both walk the same tiles: the task vectors of all experts over some rows and columns of one parameter, (K, r, m).
The tiles come from memory (resident_task_vectors.py), from mapped files (mapped_task_vectors.py), or from mapped files
through pinned memory to a GPU (pinned_task_vectors.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, groupby
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.merging.device import full_precision
from adamerge.merging.grouping import Grouping
from adamerge.types import Coefficients, Parameters


class Tile(NamedTuple):
    """Task vectors of all experts over some rows and columns of one parameter."""

    name: str
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
    def tiles(self, names: Iterable[str]) -> Iterator[Tile]:
        """Task vectors of parameters, in their order, seen as matrices (R, M); a tile is valid until the next one."""

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

    @torch.no_grad()
    def combine(self, coefficients: Coefficients, grouping: Grouping) -> dict[str, Tensor]:
        """Merge all parameters: merged[p] = centre[p] + Σₖ C[g(p), k]·τₖ[p], g(p) being the group of p or of its row.

        Args:
            coefficients: C, (G, K).
            grouping: Of the parameters that have task vectors.

        Returns:
            New tensors of the parameters' shapes, in `dtype` on `device`; views of one block of memory.
        """
        merged = self.allocate()
        table, groups = coefficients.detach().to(self.device, self.dtype), grouping.on(self.device)
        with full_precision(self.device):
            for name, tiles in groupby(self.tiles(self.shapes), attrgetter("name")):
                self._combine_into(merged[name].copy_(self.centre(name)), table[groups[name]], tiles)
        return merged

    def allocate(self) -> dict[str, Tensor]:
        """Make room for all merged parameters: one block, taken and given back whole.

        A few hundred blocks would leave holes in the heap.
        """
        starts = [0, *accumulate(_aligned(shape.numel()) for shape in self.shapes.values())]
        block = torch.empty(starts[-1], dtype=self.dtype, device=self.device)
        sizes = zip(starts, self.shapes.items(), strict=False)
        return {name: block[start : start + shape.numel()].view(shape) for start, (name, shape) in sizes}

    def _combine_into(self, out: Tensor, weights: Tensor, tiles: Iterable[Tile]) -> None:
        """Add weighted task vectors to one parameter, given the weights of the whole of it, (1, K), or of its rows."""
        merged = as_matrix(out)  # (R, M)
        weights = weights.expand(len(merged), -1).unsqueeze(1)  # (R, 1, K)
        for _, rows, columns, stack in tiles:
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
        rows = grouping.on(self.device)
        for name, products in self.products(gradients):
            groups = rows[name]
            total.index_add_(0, groups, products if len(groups) > 1 else products.sum(0, keepdim=True))
        return total

    @torch.no_grad()
    def products(self, gradients: Parameters) -> Iterator[tuple[str, Tensor]]:
        """⟨gradient, τₖ⟩ of each parameter, row by row, (R, K), in the order of the gradients."""
        with full_precision(self.device):
            for name, tiles in groupby(self.tiles(gradients), attrgetter("name")):
                yield name, self._products(gradients[name], tiles)

    def _products(self, gradient: Tensor, tiles: Iterable[Tile]) -> Tensor:
        gradient = as_matrix(gradient.to(self.device, self.dtype)).unsqueeze(1)  # (R, 1, M)
        products = gradient.new_zeros(len(gradient), 1, len(self.experts))
        for _, rows, columns, stack in tiles:
            products[rows] += torch.bmm(gradient[rows, :, columns], stack.permute(1, 2, 0))  # (r, 1, m) @ (r, m, K)
        return products.squeeze(1)

    def stack(self, name: str) -> Tensor:
        """All task vectors of one parameter, (K, *shape): K·N numbers, for transforms of task vectors."""
        shape = self.shapes[name]
        stack = torch.empty(len(self.experts), *shape, dtype=self.dtype, device=self.device)
        matrices = stack.view(len(self.experts), *matrix_shape(shape))
        for _, rows, columns, part in self.tiles([name]):
            matrices[:, rows, columns] = part
        return stack

    def stacks(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's name and stack, one at a time."""
        return ((name, self.stack(name)) for name in self.shapes)


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """A parameter as a matrix: (R, M), R output channels; a vector or a scalar is one row.

    Example:
        >>> matrix_shape(torch.Size([64, 3, 7, 7])), matrix_shape(torch.Size([64]))
        ((64, 147), (1, 64))
    """
    rows = shape[0] if len(shape) > 1 else 1
    return rows, shape.numel() // rows


def as_matrix(tensor: Tensor) -> Tensor:
    """View a parameter as a matrix, (R, M)."""
    return tensor.reshape(matrix_shape(tensor.shape))


def _aligned(numbers: int) -> int:
    """Room for that many numbers such that the next ones begin at a cache line."""
    return -(-numbers // 16) * 16
