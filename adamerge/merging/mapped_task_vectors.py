"""Task vectors mapped from checkpoints: read tile by tile, so that memory does not grow with K.

Tiles are read from the page cache into a scratch tile of fixed size, used for one parameter after another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.merging.exact import Exact, Term, joined, merge_exactly, windows
from adamerge.merging.matrices import as_matrix, matrix_shape
from adamerge.merging.task_vectors import Bundle, TaskVectors, Tile
from adamerge.storage.digest import FileDigest, FileIdentity, digest_of_json
from adamerge.storage.read_ahead import read_ahead
from adamerge.storage.some_rows import SomeRows
from adamerge.storage.weights import Weights
from adamerge.types import Coefficients

SCRATCH = 2**20
"""Numbers in the scratch tile of all experts together: 4 MiB in fp32, about a core's share of the cache."""


class Mapped(TaskVectors):
    """Task vectors taken tile by tile from checkpoints, τₖ = expertₖ − base, or read as they are.

    Args:
        experts: Each expert's weights by its name.
        names: Parameters to merge.
        centre: What the task vectors are added to.
        base: What is subtracted from the experts; None where they hold task vectors already.
        dtype: Of the computation.
        device: Of the computation.

    Attributes:
        subtracts_centre: Whether what is subtracted from the experts is the centre itself.
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
        self.bundles = tuple((name,) for name in names)
        self.dtype = dtype
        self.device = torch.device(device)
        self._weights = tuple(experts.values())
        self._centre = centre
        self._base = base
        self._sources = (*self._weights, centre, *([] if base is None else [base]))
        self.subtracts_centre = base is centre
        # One for all parameters: a new one for each would leave holes in the heap between the merged ones.
        self._scratch = torch.empty(max(SCRATCH, len(experts) + 1), dtype=dtype, device=device)

    @override
    def centre_of(self, bundle: Bundle) -> Tensor:
        own = [as_matrix(self._centre[name]) for name in bundle]
        return own[0] if len(own) == 1 else torch.cat(own)

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return {path: file for weights in self._sources for path, file in weights.files.items()}

    @override
    def read_ahead(self, names: Sequence[str], most: int) -> None:
        read_ahead(self._sources, names, most)

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        sources = [one.digest(file) for one in self._sources]
        return digest_of_json([self.experts, list(self.shapes), str(self.dtype), sources])

    @override
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        return joined(self.exactly(name, coefficients, groups), self.shapes[name], torch.float64)

    @override
    @torch.no_grad()
    def exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Iterator[Exact]:
        weights = coefficients.detach().cpu().double()[groups.cpu()]  # (1 or R, K)
        matrices = zip(self.sources(name), weights.unsqueeze(2).unbind(1), strict=True)
        experts = [Term(*one) for one in matrices]
        apart = self._base is not None and self._base is not self._centre
        none, rest = torch.ones_like(weights[:, :1]), 1 - weights.sum(1, keepdim=True)
        centre = Term(as_matrix(self._centre[name]), none if apart or self._base is None else rest)
        base = Term(as_matrix(self._base[name]), rest - 1) if apart and self._base is not None else None
        return merge_exactly(centre, experts, base, subtracts=self._base is not None)

    @override
    def part(self, rows: Mapping[str, slice]) -> "Mapped":
        every = {id(one): SomeRows(one, rows) for one in (*self._weights, self._centre, self._base) if one is not None}
        experts = {name: every[id(one)] for name, one in zip(self.experts, self._weights, strict=True)}
        base = None if self._base is None else every[id(self._base)]
        return Mapped(experts, list(rows), every[id(self._centre)], base, self.dtype, self.device)

    @override
    def tiles(self, bundles: Iterable[Bundle]) -> Iterator[Tile]:
        for bundle in bundles:
            height, _ = matrix_shape(self.shapes[bundle[0]])
            for number, name in enumerate(bundle):
                for rows, columns, stack in self._tiles(name):
                    below = slice(rows.start + number * height, rows.stop + number * height)
                    yield Tile(bundle, below, columns, stack)

    def sources(self, name: str) -> list[Tensor]:
        """Return each expert's tensor as a matrix (R, M), in its file's dtype."""
        return [as_matrix(weights[name]) for weights in self._weights]

    def base(self, name: str) -> Tensor | None:
        """Return what is subtracted from the experts, as a matrix (R, M); None where they are task vectors already."""
        return None if self._base is None else as_matrix(self._base[name])

    def dtypes(self, name: str) -> tuple[torch.dtype, ...]:
        """Return the dtypes of a parameter in all files."""
        return tuple(weights.headers[name].dtype for weights in self._sources)

    def _tiles(self, name: str) -> Iterator[tuple[slice, slice, Tensor]]:
        return differences(self.sources(name), self.base(name), self._scratch)


def differences(
    sources: Sequence[Tensor], base: Tensor | None, scratch: Tensor
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Subtract a base from sources, window by window.

    Args:
        sources: One parameter's matrix (R, M) in each source, on the CPU.
        base: What is subtracted; None subtracts nothing.
        scratch: Flat; where the differences are computed, in its dtype and on its device.

    Yields:
        Rows, columns, and the differences there, (K, r, m), valid until the next ones.
    """
    rows, columns = sources[0].shape
    read = [*sources, *([] if base is None else [base])]
    for r, m in windows(rows, columns, max(1, len(scratch) // len(read))):
        shape = sources[0][r, m].shape
        stack = scratch[: len(read) * shape.numel()].view(len(read), *shape)
        for source, place in zip(read, stack, strict=True):
            place.copy_(source[r, m].to(scratch.device))
        if base is not None:
            stack[:-1] -= stack[-1]
        yield r, m, stack[: len(sources)]
