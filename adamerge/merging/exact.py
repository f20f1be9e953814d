"""Merges of one parameter in fp64, window by window, for what is written: combined, and measured once it is rounded.

    merged = Σᵢ wᵢ · termᵢ        terms: centre, experts, and what is subtracted from these if it is not the centre
    ⟨values − centre, τₖ⟩ = ⟨values − centre, expertₖ⟩ − ⟨values − centre, base⟩

Term after term is converted to fp64 and added, in windows so small that a core's own cache holds one of the term and
one of the sum; in fp64 the last difference keeps eleven digits or more, where experts differ from their base by 1e-5 of
its size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.merging.matrices import as_matrix

_WINDOW = 2**18
"""Numbers of a window, at most: 2 MiB in fp64."""

_ROOM = 2**21
"""Numbers of all terms together in a window, as products need them, at most: 16 MiB in fp64."""


class Exact(NamedTuple):
    """Some rows and columns of a parameter's matrix, merged in fp64; valid until the next ones.

    Attributes:
        rows: The rows.
        columns: The columns.
        merged: (r, m); `products` may write over it.
        products: Computes ⟨written − centre, τₖ⟩ of the values as they are written, (r, m), and ⟨merged − centre, τₖ⟩:
            of each row, (2, r, K), or of all of them together, (2, 1, K).
    """

    rows: slice
    columns: slice
    merged: Tensor
    products: Callable[[Tensor, bool], Tensor]


@dataclass(frozen=True)
class Term:
    """A matrix (R, M) of any dtype, and its weight, (1, 1) or of each row (R, 1), in fp64."""

    values: Tensor
    weight: Tensor

    @cached_property
    def everywhere(self) -> bool:
        """Whether no row has the weight zero."""
        return bool(self.weight.all())

    def add(self, rows: slice, values: Tensor, product: Tensor, total: Tensor) -> None:
        """Add weight · values of some rows to a total, but where the weight is zero; each step is rounded once."""
        factor = self.weight[rows] if len(self.weight) > 1 else self.weight
        product.copy_(values).mul_(factor)
        if self.everywhere:
            total.add_(product)
        else:
            total.copy_(torch.where(factor != 0, total + product, total))


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
    products = partial(_products, taking, len(experts), first if subtracts else None)
    most = min(_WINDOW, max(1, _ROOM // (len(terms) + 2)))
    room = torch.empty((len(terms) + 2) * most, dtype=torch.float64)
    height, width = centre.values.shape
    for rows, columns in windows(height, width, most):
        own = [term.values[rows, columns] for term in terms]
        every = room[: (len(terms) + 2) * own[0].numel()].view(-1, *own[0].shape)
        product, merged = every[-2:]
        merged.fill_(-0.0)  # leaves every number as it is, −0 too
        for term, values in zip(terms, own, strict=True):
            term.add(rows, values, product, merged)
        yield Exact(rows, columns, merged, partial(products, own, every))


def _products(
    taking: Sequence[int],
    count: int,
    first: int | None,
    own: Sequence[Tensor],
    room: Tensor,
    written: Tensor,
    by_row: bool,
) -> Tensor:
    """Compute ⟨written − centre, τₖ⟩ and ⟨merged − centre, τₖ⟩ in fp64.

    Args:
        taking: The experts' columns among all experts.
        count: K.
        first: Place of the first expert, just behind what is subtracted from all of them; None subtracts nothing.
        own: Centre, base if there is one, and experts that take part, n in all, (r, m) each, as they are stored.
        room: (n + 2, r, m), the last of which is merged; all are written over.
        written: (r, m).
        by_row: Whether to compute it of each row.
    """
    terms, moved = room[:-2], room[-2:]
    for place, values in zip(terms, own, strict=True):
        place.copy_(values)
    moved[0].copy_(written)
    moved -= terms[0]
    if by_row:
        found = torch.einsum("vrm,nrm->vrn", moved, terms)
    else:
        found = (moved.flatten(1) @ terms.flatten(1).T).unsqueeze(1)
    result = found[..., len(terms) - len(taking) :]
    result = result if first is None else result - found[..., first - 1 : first]
    if len(taking) == count:
        return result
    whole = found.new_zeros(*found.shape[:2], count)
    whole[..., list(taking)] = result
    return whole


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
