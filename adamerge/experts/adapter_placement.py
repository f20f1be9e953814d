"""Where the parts of a fused tensor lie in it, so that the factors of parts are factors of the whole, block by block.

A tensor of today's transformers may hold the matrices of several layers of an older version: those of all experts of a
mixture, gate and up in one. With whole rows of the parts as whole rows of the tensor,

    ΔW[e] = [s₁·B₁  0 ; 0  s₂·B₂] [A₁ ; A₂]                  for gate and up of one expert e

so that every part keeps factors and scale of its own, and no ΔW is computed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.experts.conversion import Conversion
from adamerge.experts.low_rank import LowRank

_MOVES_ROWS = frozenset(
    {"MergeModulelist", "Concatenate", "Interleave", "Transpose", "Chunk", "ErnieFuseAndSplitTextVisionExperts"}
)
"""transformers' operations that put numbers in other places, whatever the sizes of the tensors are."""


class Piece(NamedTuple):
    """Rows of a part, and where they lie.

    Attributes:
        block: Number of the matrix in the tensor: of the expert of a mixture.
        rows: Rows of that matrix.
        part: Name of the part.
        own: Rows of the part.
    """

    block: int
    rows: Tensor
    part: str
    own: Tensor


class Placement(NamedTuple):
    """Where parts lie in one tensor.

    Attributes:
        pieces: All parts' rows.
        shape: (E, R, M), of the tensor as matrices of outputs × inputs; a single matrix has E = 1.
        transposed: Whether the tensor holds (E, M, R).
        stacked: Whether the tensor has three dimensions.
    """

    pieces: tuple[Piece, ...]
    shape: tuple[int, int, int]
    transposed: bool
    stacked: bool

    def of(self, parts: Mapping[str, object]) -> "Placement":
        """Return the same with some parts only."""
        return self._replace(pieces=tuple(piece for piece in self.pieces if piece.part in parts))


def placements(
    conversion: Conversion, parts: Mapping[str, torch.Size], shapes: Mapping[str, torch.Size]
) -> dict[str, Placement]:
    """Find where the rows of parts lie in the tensors that a conversion makes: it is applied to their numbers.

    Args:
        conversion: Makes tensors of the module of the parts.
        parts: Shape by name of the part.
        shapes: Shape by name of the tensor.

    Returns:
        Placement by name of the tensor; tensors in which something else than whole rows of matrices has a place are
        absent.
    """
    operations = conversion.rule.operations
    plain = all(type(one).__name__ in _MOVES_ROWS and not getattr(one, "check_dims", False) for one in operations)
    if not plain or any(len(shape) != 2 for shape in parts.values()):
        return {}
    starts = dict(zip(parts, _starts([shape[0] for shape in parts.values()]), strict=True))
    rows = conversion.apply(lambda name: (starts[name] + torch.arange(parts[name][0]))[:, None])
    several = len(conversion.rule.target_patterns)  # so that each tensor gets a row
    columns = conversion.apply(lambda name: torch.arange(parts[name][1]).repeat(several, 1))
    both = {name: shape for name, shape in shapes.items() if name in rows and name in columns}
    found = {name: _placement(rows[name], columns[name], shape, starts) for name, shape in both.items()}
    return {name: one for name, one in found.items() if one is not None}


def _starts(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:number]) for number in range(len(counts))]


def _placement(rows: Tensor, columns: Tensor, shape: torch.Size, starts: Mapping[str, int]) -> Placement | None:
    """Read the places from what a conversion made of the rows' and of the columns' numbers."""
    stacked = len(shape) == 3
    blocks, sides = (shape[0] if stacked else 1), tuple(shape[-2:])
    transposed = rows.shape[-1] != 1 or (rows.shape[-2] == 1 and sides[0] != 1)
    count, width = sides[::-1] if transposed else sides
    if transposed:
        rows, columns = rows.mT, columns.mT
    if rows.ndim != len(shape) or rows.shape[-2:] != (count, 1) or columns.shape[-1] != width:
        return None
    if not bool((columns == torch.arange(width)).all()):
        return None
    pieces = [piece for block, one in enumerate(rows.reshape(blocks, count)) for piece in _pieces(block, one, starts)]
    return Placement(tuple(pieces), (blocks, count, width), transposed, stacked)


def _pieces(block: int, labels: Tensor, starts: Mapping[str, int]) -> Iterator[Piece]:
    names, first = list(starts), torch.tensor(list(starts.values()))
    owners = torch.bucketize(labels, first, right=True) - 1
    for owner in owners.unique().tolist():
        rows = (owners == owner).nonzero().flatten()
        yield Piece(block, rows, names[owner], labels[rows] - first[owner])


def placed(placement: Placement, factors: Mapping[str, LowRank]) -> LowRank:
    """Lay the factors of parts into factors of the tensor; each part has columns of B and rows of A of its own.

    Args:
        placement: Where the parts lie; of those that have factors.
        factors: By part.

    Returns:
        (E, R, n) and (E, n, M), or (E, M, n) and (E, n, R) if the tensor is transposed; the scale is in them.
    """
    widths: dict[int, int] = defaultdict(int)
    places: list[tuple[Piece, slice]] = []
    for piece in placement.pieces:
        start = widths[piece.block]
        widths[piece.block] += len(factors[piece.part].right)
        places.append((piece, slice(start, widths[piece.block])))
    blocks, rows, columns = placement.shape
    dtype = torch.promote_types(torch.float32, next(iter(factors.values())).left.dtype)
    left = torch.zeros(blocks, rows, max(widths.values()), dtype=dtype)
    right = torch.zeros(blocks, max(widths.values()), columns, dtype=dtype)
    for piece, own in places:
        one = factors[piece.part]
        left[piece.block, piece.rows, own] = one.scale * one.left[piece.own].to(dtype)
        right[piece.block, own] = one.right.to(dtype)
    found = LowRank(right.mT, left.mT, 1.0) if placement.transposed else LowRank(left, right, 1.0)
    return found if placement.stacked else found._replace(left=found.left[0], right=found.right[0])
