"""combine and inner: from coefficients to merged parameters, and back from their gradient.

    combine:  merged[p][r, m] = centre[p][r, m] + Σₖ C[group of (p, r), k] · τₖ[p][r, m]
    inner:    ∂L/∂C[g, k] = Σ over the rows (p, r) of group g of Σₘ ∂L/∂merged[p][r, m] · τₖ[p][r, m]

Both walk the same tiles: task vectors of all experts over some rows and columns of a bundle of parameters, (K, r, m).
On the CPU a bundle is one parameter. On a GPU it is all parameters of one shape, so that a step launches few kernels.
The tiles come from memory (resident_task_vectors.py), from mapped files (mapped_task_vectors.py), or from mapped files
through pinned memory to a GPU (pinned_task_vectors.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from adamerge.experts.one_block import block_of
from adamerge.merging.device import full_precision
from adamerge.merging.exact import Exact
from adamerge.merging.grouping import Grouping
from adamerge.merging.matrices import as_matrix, matrix_shape
from adamerge.storage.digest import FileDigest, FileIdentity
from adamerge.types import Coefficients, Parameters

Bundle: TypeAlias = tuple[str, ...]
"""Parameters of one shape, one below the other as a matrix (P·R, M)."""

AT_ONCE = 2**21
"""Numbers of a parameter that are merged at once for what is written: 16 MiB in fp64, and several copies."""


class Tile(NamedTuple):
    """Task vectors of all experts over some rows and columns of a bundle."""

    bundle: Bundle
    rows: slice
    columns: slice
    stack: Tensor  # (K, r, m)


class TaskVectors(ABC):
    """What coefficients weigh: K task vectors and the centre they are added to.

    Attributes:
        experts: Name of each expert, (K,).
        shapes: Shape of each parameter that has a task vector.
        bundles: The same parameters, each in one bundle.
        dtype: In which everything is computed; fp32, or fp64 where the last bit counts.
        device: On which everything is computed.
        per: What several groups of one parameter are of: its rows, or the components of adapters' factors.
    """

    experts: tuple[str, ...]
    shapes: Mapping[str, torch.Size]
    bundles: tuple[Bundle, ...]
    dtype: torch.dtype
    device: torch.device
    per: Literal["row", "component"] = "row"

    @abstractmethod
    def centre_of(self, bundle: Bundle) -> Tensor:
        """Return the centre of a bundle, (P·R, M), in any dtype and on any device; it is not altered."""

    @abstractmethod
    def tiles(self, bundles: Iterable[Bundle]) -> Iterator[Tile]:
        """Yield the task vectors of bundles, in their order; a tile is valid until the next one.

        Args:
            bundles: Some of `bundles`, or single parameters.
        """

    @property
    def files(self) -> Mapping[Path, FileDigest]:
        """Files that task vectors and centre are read from."""
        return {}

    def read_ahead(self, names: Sequence[str], most: int) -> None:
        """Ask for what parameters are read from, at most so many bytes of files; by default they are in none."""
        del names, most

    @abstractmethod
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        """Hash of what the task vectors and their centre are read from, for the keys of kept results.

        Args:
            file: What stands for a file instead of its hash.
        """

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

    def exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Iterator[Exact]:
        """Merge one parameter as `combine_exactly` does, some rows and columns at a time, in the order of its numbers.

        Where it is computed at once, the only part has all rows, and products of components where groups are these.
        """
        shape = self.shapes[name]
        if shape.numel() > AT_ONCE and shape[0] > 1 and self.divides(name):
            step = max(1, AT_ONCE * shape[0] // shape.numel())
            for rows in (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)):
                own = groups[rows] if len(groups) > 1 else groups
                yield next(self.part({name: rows}).exactly(name, coefficients, own))._replace(rows=rows)
            return
        merged = as_matrix(self.combine_exactly(name, coefficients, groups))

        def products(written: Tensor, by_row: bool) -> Tensor:
            return self.products_exactly(name, [written, merged], by_row)

        yield Exact(slice(None), slice(None), merged, products)

    def divides(self, name: str) -> bool:
        """Return whether some rows of a parameter are merged exactly by themselves, at no more work."""
        del name
        return False

    @torch.no_grad()
    def products_exactly(self, name: str, values: Sequence[Tensor], by_row: bool) -> Tensor:
        """Compute ⟨values − centre, τₖ⟩, with the differences in fp64 and the products in `dtype`.

        Args:
            name: The parameter.
            values: Several values of it, of any dtype.
            by_row: Whether to compute it of each row (or component) alone, (V, R, K), or of all together, (V, 1, K).
        """
        centre, every = self.centre(name).double().cpu(), list[Tensor]()
        for own in values:
            ((_, found),) = self.products({name: (own.double().view_as(centre) - centre).to(self.dtype)})
            every.append(found.cpu().double())
        return torch.stack([one if by_row else one.sum(0, keepdim=True) for one in every])

    @abstractmethod
    def part(self, rows: Mapping[str, slice]) -> "TaskVectors":
        """Return the task vectors of some rows (first dimension) of some parameters; no others are read.

        Args:
            rows: The rows by parameter; others are left out.
        """

    def centre(self, name: str) -> Tensor:
        """Return the centre of one parameter, in its own shape and in any dtype and device; it is not altered."""
        return self.centre_of((name,)).reshape(self.shapes[name])

    @torch.no_grad()
    def combine(
        self, coefficients: Coefficients, grouping: Grouping, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Merge parameters: merged[p] = centre[p] + Σₖ C[g(p), k]·τₖ[p], g(p) being the group of p or of its row.

        Args:
            coefficients: C, (G, K).
            grouping: Of the parameters that have task vectors.
            names: The parameters to merge; all by default.

        Returns:
            New tensors of the parameters' shapes, in `dtype` on `device`; views of one block of memory.
        """
        matrices = self._new_matrices(self._bundles_of(names))
        table = coefficients.detach().to(self.device, self.dtype)
        with full_precision(self.device):
            for bundle, tiles in groupby(self.tiles(matrices), attrgetter("bundle")):
                weights = table[grouping.of(bundle, self.device)]  # (P, 1 or R, K)
                self._combine_into(matrices[bundle].copy_(self.centre_of(bundle)), weights, tiles)
        parts = {name: part for bundle, matrix in matrices.items() for name, part in self._parts(bundle, matrix)}
        return {name: parts[name].view(shape) for name, shape in self.shapes.items() if name in parts}

    def _bundles_of(self, names: Sequence[str] | None) -> Sequence[Bundle]:
        """Return bundles of exactly these parameters: bundles that are among them as a whole, and single parameters."""
        if names is None:
            return self.bundles
        left = dict.fromkeys(names)
        whole = [bundle for bundle in self.bundles if left.keys() >= set(bundle)]
        single = left.keys() - {name for bundle in whole for name in bundle}
        return [*whole, *((name,) for name in left if name in single)]

    def _new_matrices(self, bundles: Sequence[Bundle]) -> dict[Bundle, Tensor]:
        """Allocate a matrix per bundle; one block is taken and given back whole, a few hundred would leave holes."""
        shapes = [self._shape(bundle) for bundle in bundles]
        return dict(zip(bundles, block_of(shapes, self.dtype, self.device), strict=True))

    def _combine_into(self, merged: Tensor, weights: Tensor, tiles: Iterable[Tile]) -> None:
        """Add weighted task vectors to a matrix (P·R, M), given the weights of its parameters or of their rows."""
        count, _, experts = weights.shape
        weights = weights.expand(count, len(merged) // count, experts).reshape(-1, 1, experts)  # (P·R, 1, K)
        for _, rows, columns, stack in tiles:
            part = merged[rows, columns].unsqueeze(1)  # (r, 1, m)
            part.baddbmm_(weights[rows], stack.transpose(0, 1))  # (r, 1, K) @ (r, K, m)

    @torch.no_grad()
    def inner(self, gradients: Parameters, grouping: Grouping) -> Coefficients:
        """Compute the gradient in the coefficients from the gradient in the merged parameters.

        ∂L/∂C[g, k] = Σ over the parameters p of group g of ⟨∂L/∂merged[p], τₖ[p]⟩, with τₖ = expertₖ − centre taken
        tile by tile; ⟨∂L/∂merged, expertₖ⟩ − ⟨∂L/∂merged, base⟩ would lose digits.

        Args:
            gradients: ∂L/∂merged by parameter; one that is absent counts as zero.
            grouping: The one that was combined with.

        Returns:
            ∂L/∂C, (G, K), in `dtype` on `device`.
        """
        total = torch.zeros(len(grouping), len(self.experts), dtype=self.dtype, device=self.device)
        for bundle, products in self._products(gradients):
            groups = grouping.of(bundle, self.device)  # (P, 1 or R)
            products = products if groups.shape[1] > 1 else products.sum(1, keepdim=True)
            total.index_add_(0, groups.flatten(), products.flatten(0, 1))
        return total

    @torch.no_grad()
    def products(self, gradients: Parameters) -> Iterator[tuple[str, Tensor]]:
        """Compute ⟨gradient, τₖ⟩ of each parameter that has a gradient, row by row, (R, K)."""
        for bundle, products in self._products(gradients):
            yield from ((name, own) for name, own in zip(bundle, products, strict=True) if name in gradients)

    def _products(self, gradients: Parameters) -> Iterator[tuple[Bundle, Tensor]]:
        """Compute ⟨gradient, τₖ⟩ of each bundle with a gradient, row by row, (P, R, K)."""
        nearly = [bundle for bundle in self.bundles if 2 * sum(name in gradients for name in bundle) > len(bundle)]
        covered = {name for bundle in nearly for name in bundle}
        bundles = [*nearly, *((name,) for name in gradients if name not in covered)]
        with full_precision(self.device):
            for bundle, tiles in groupby(self.tiles(bundles), attrgetter("bundle")):
                gradient = self._gradient(bundle, gradients).unsqueeze(1)  # (P·R, 1, M)
                products = gradient.new_zeros(len(gradient), 1, len(self.experts))
                for _, rows, columns, stack in tiles:
                    # (r, 1, m) @ (r, m, K)
                    products[rows] += torch.bmm(gradient[rows, :, columns], stack.permute(1, 2, 0))
                yield bundle, products.view(len(bundle), -1, len(self.experts))

    def _gradient(self, bundle: Bundle, gradients: Parameters) -> Tensor:
        """Return the gradient of a bundle, (P·R, M); zero for a parameter that has none."""
        parts = [gradients[name] if name in gradients else self._zero(name) for name in bundle]
        own = [as_matrix(part.to(self.device, self.dtype)) for part in parts]
        return own[0] if len(own) == 1 else torch.cat(own)

    def _zero(self, name: str) -> Tensor:
        return torch.zeros(self.shapes[name], dtype=self.dtype, device=self.device)

    def stack(self, name: str) -> Tensor:
        """Return all task vectors of one parameter, (K, *shape): K·N numbers, for transforms of task vectors."""
        return self.stack_of((name,)).reshape(len(self.experts), *self.shapes[name])

    def stack_of(self, bundle: Bundle) -> Tensor:
        """Return all task vectors of a bundle, (K, P·R, M)."""
        stack = torch.empty(len(self.experts), *self._shape(bundle), dtype=self.dtype, device=self.device)
        for _, rows, columns, part in self.tiles([bundle]):
            stack[:, rows, columns] = part
        return stack

    def norms(self, name: str) -> Tensor:
        """Compute the norm of each task vector of one parameter, (K,)."""
        tiles = (stack.square().sum((1, 2), dtype=torch.float64) for *_, stack in self.tiles([(name,)]))
        return torch.stack(list(tiles)).sum(0).sqrt().to(self.dtype)

    def squares(self, name: str, centre: Tensor) -> Tensor:
        """Compute ‖centre + τₖ‖² row by row, (R, K), of one parameter's centre (R, M)."""
        squares = centre.new_zeros(len(centre), len(self.experts))
        for _, rows, columns, stack in self.tiles([(name,)]):
            squares[rows] += (stack + centre[rows, columns]).square().sum(-1).T
        return squares

    def _shape(self, bundle: Bundle) -> tuple[int, int]:
        rows, columns = matrix_shape(self.shapes[bundle[0]])
        return len(bundle) * rows, columns

    def _parts(self, bundle: Bundle, matrix: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Split a matrix (P·R, M) by parameter, (R, M) each."""
        return zip(bundle, matrix.view(len(bundle), -1, matrix.shape[1]), strict=True)

    def stacks(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter's name and stack, one at a time."""
        return ((name, self.stack(name)) for name in self.shapes)


def bundled(keys: Mapping[str, Hashable]) -> tuple[Bundle, ...]:
    """Put parameters with equal keys into one bundle.

    Example:
        >>> bundled({"a": (2, 3), "b": (2,), "c": (2, 3)})
        (('a', 'c'), ('b',))
    """
    found: dict[Hashable, Bundle] = {}
    for name, key in keys.items():
        found[key] = (*found.get(key, ()), name)
    return tuple(found.values())
