"""Dense changes as factors: projections onto the spaces that the adapters' factors span, and what is left outside.

A centre or transformed task vector C is a product of factors if its columns are in the span of the left factors,
C = Q (Qᵀ C), or its rows in that of the right ones, C = (C P) Pᵀ. Methods of matrices see gate and up of a mixture's
expert as two matrices, where the parameter holds both in one: then each has a space of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.experts.low_rank import LowRank
from adamerge.experts.matrix_layouts import Layout
from adamerge.merging.factor_algebra import column_basis


class Term(NamedTuple):
    """A part of a change, left @ right; a matrix is one block, E = 1.

    Attributes:
        left: (E, R, n), fp64.
        right: (E, n, M).
    """

    left: Tensor
    right: Tensor


def blocks_of(factor: Tensor) -> Tensor:
    """View a factor as one of every block, (E, …)."""
    return factor if factor.ndim == 3 else factor.unsqueeze(0)


def projection(change: Tensor, factors: Sequence[LowRank], layout: Layout | None, enough: float) -> tuple[Term, float]:
    """Find factors of a change, or those that come closest.

    Args:
        change: (E, R, M), fp64.
        factors: Of the adapters.
        layout: How the parameter holds the matrices of its layers, if it is not one matrix.
        enough: Norm of what may be left outside.

    Returns:
        The factors, and the norm of what they leave outside.
    """
    best: tuple[Term, float] | None = None
    for term in _projections(change, factors, layout):
        outside = (change - term.left @ term.right).norm().item()
        if best is None or outside < best[1]:
            best = term, outside
        if outside <= enough:
            break
    assert best is not None
    return best


def _projections(change: Tensor, factors: Sequence[LowRank], layout: Layout | None) -> Iterator[Term]:
    lefts = [blocks_of(one.left).double() for one in factors]
    rights = [blocks_of(one.right).double().mT for one in factors]
    yield _onto_columns(change, lefts, _whole)
    yield _turned(_onto_columns(change.mT, rights, _whole))
    if layout is not None and layout.parts > 1:
        split = _interleaved(layout.parts) if layout.interleaved else _halves(layout.parts)
        if layout.transposed:
            yield _turned(_onto_columns(change.mT, rights, split))
        else:
            yield _onto_columns(change, lefts, split)


def _turned(term: Term) -> Term:
    return Term(term.right.mT, term.left.mT)


Split = Callable[[int], Sequence[slice]]


def _whole(rows: int) -> Sequence[slice]:
    return [slice(rows)]


def _halves(parts: int) -> Split:
    return lambda rows: [slice(part * rows // parts, (part + 1) * rows // parts) for part in range(parts)]


def _interleaved(parts: int) -> Split:
    return lambda rows: [slice(part, rows, parts) for part in range(parts)]


def _onto_columns(change: Tensor, lefts: Sequence[Tensor], split: Split) -> Term:
    """Project the columns of every block onto the span of the factors' columns, those of some rows by themselves."""
    bases = [_basis(change[block], [left[block] for left in lefts], split) for block in range(len(change))]
    width = max(basis.shape[1] for basis in bases)
    stack = torch.stack([torch.nn.functional.pad(basis, (0, width - basis.shape[1])) for basis in bases])
    return Term(stack, stack.mT @ change)


def _basis(block: Tensor, lefts: Sequence[Tensor], split: Split) -> Tensor:
    found: list[Tensor] = []
    for rows in split(len(block)) if lefts else ():
        own = column_basis([left[rows] for left in lefts])
        whole = block.new_zeros(len(block), own.shape[1])
        whole[rows] = own
        found.append(whole)
    return torch.cat(found, 1) if found else block.new_zeros(len(block), 0)
