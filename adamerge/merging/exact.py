"""Merges of one parameter in fp64, window by window, for what is written: combined, and measured once it is rounded.

    merged = Σᵢ wᵢ · termᵢ        terms: centre, experts, and what is subtracted from these if it is not the centre
    ⟨values − centre, τₖ⟩ = ⟨values − centre, expertₖ⟩ − ⟨values − centre, base⟩

Every number of the files is converted to fp64 once, in a window that fits into a core's own cache; in fp64 the last
difference keeps eleven digits or more, where experts differ from their base by 1e-5 of its size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.merging.matrices import as_matrix

_ROOM = 2**19
"""Numbers of all terms together in a window: 4 MiB in fp64."""


class Exact(NamedTuple):
    """Some rows and columns of a parameter's matrix, merged in fp64; valid until the next ones.

    Attributes:
        rows: The rows.
        columns: The columns.
        merged: (r, m).
        products: Computes ⟨values − centre, τₖ⟩ of several values (r, m): of each row, (V, r, K), or of all of them
            together, (V, 1, K).
    """

    rows: slice
    columns: slice
    merged: Tensor
    products: Callable[[Sequence[Tensor], bool], Tensor]


class Term(NamedTuple):
    """A matrix (R, M) of any dtype, and its weight, (1, 1) or of each row (R, 1), in fp64."""

    values: Tensor
    weight: Tensor

    def add(self, rows: slice, values: Tensor, product: Tensor, total: Tensor) -> None:
        """Add weight · values of some rows to a total, but where the weight is zero; each step is rounded once."""
        factor = self.weight[rows] if len(self.weight) > 1 else self.weight
        torch.mul(values, factor, out=product)
        if (used := factor != 0).all():
            total.add_(product)
        else:
            total.copy_(torch.where(used, total + product, total))


def joined(parts: Iterable[Exact], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Put the parts of one parameter together, each rounded to a dtype."""
    whole = torch.empty(shape, dtype=dtype)
    for part in parts:
        as_matrix(whole)[part.rows, part.columns] = part.merged
    return whole


def merge_exactly(centre: Term, experts: Sequence[Term], base: Term | None, *, subtracts: bool) -> Iterator[Exact]:
    """Merge a parameter's matrix; terms of weight zero take no part, and each step is rounded once.

    Args:
        centre: What task vectors are added to.
        experts: The experts, or task vectors.
        base: What is subtracted from experts, where it is not the centre.
        subtracts: Whether anything is subtracted from the experts: the centre, if there is no base.
    """
    taking = [k for k, term in enumerate(experts) if term.weight.any()]
    terms = [centre, *([base] if base else []), *(experts[k] for k in taking)]
    first = len(terms) - len(taking)
    room = torch.empty(max(_ROOM, len(terms) + 2), dtype=torch.float64)
    height, width = centre.values.shape
    for rows, columns in windows(height, width, len(room) // (len(terms) + 2)):
        shape = centre.values[rows, columns].shape
        *stack, merged, product = room[: (len(terms) + 2) * shape.numel()].view(-1, *shape)
        for place, term in zip(stack, terms, strict=True):
            place.copy_(term.values[rows, columns])
        merged.fill_(-0.0)  # leaves every number as it is, −0 too
        for place, term in zip(stack, terms, strict=True):
            term.add(rows, place, product, merged)
        every = room[: len(terms) * shape.numel()].view(-1, *shape)
        products = partial(_products, every, taking, len(experts), first if subtracts else None)
        yield Exact(rows, columns, merged, products)


def _products(
    terms: Tensor, taking: Sequence[int], count: int, first: int | None, values: Sequence[Tensor], by_row: bool
) -> Tensor:
    """Compute ⟨values − centre, τₖ⟩ in fp64.

    Args:
        terms: Centre, base if there is one, experts that take part, (n, r, m).
        taking: Their columns among all experts.
        count: K.
        first: Place of the first expert, just behind what is subtracted from all of them; None subtracts nothing.
        values: (r, m) each.
        by_row: Whether to compute it of each row.
    """
    moved = terms.new_empty(len(values), *terms.shape[1:])
    for place, own in zip(moved, values, strict=True):
        place.copy_(own).sub_(terms[0])
    if by_row:
        found = torch.einsum("vrm,nrm->vrn", moved, terms)
    else:
        found = (moved.flatten(1) @ terms.flatten(1).T).unsqueeze(1)
    own = found[..., len(terms) - len(taking) :]
    result = found.new_zeros(*found.shape[:2], count)
    result[..., list(taking)] = own if first is None else own - found[..., first - 1 : first]
    return result


def windows(rows: int, columns: int, room: int) -> Iterator[tuple[slice, slice]]:
    """Cut a matrix into windows of at most `room` numbers: whole rows where one fits, else pieces of a row."""
    if columns > room:
        for r in range(rows):
            for start in range(0, columns, room):
                yield slice(r, r + 1), slice(start, min(start + room, columns))
        return
    step = max(1, room // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows)), slice(0, columns)
