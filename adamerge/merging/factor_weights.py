"""How coefficients weigh the factors of a parameter: whole rows of B, or single components (a column of B, a row of A).

rows:         merged[r, m] += Σₖ c[r, k]·sₖ · Σᵢ Bₖ[r, i] Aₖ[i, m]
components:   merged[r, m] += Σₖ Σᵢ c[i, k]·sₖ · Bₖ[r, i] Aₖ[i, m]
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from adamerge.experts.low_rank import LowRank

Per: TypeAlias = Literal["row", "component"]
"""What has a coefficient of its own, where a parameter has several."""


def weighted_left(per: Per, one: LowRank, left: Tensor, weights: Tensor) -> Tensor:
    """Multiply B by scale and coefficients.

    Args:
        per: What has a coefficient of its own.
        one: The factors.
        left: B in the dtype of the computation, (R, r) or (E, R, r).
        weights: One coefficient; or one per row; or one per component, of which the first r count, (n,).

    Example:
        >>> import torch
        >>> one = LowRank(torch.ones(2, 3), torch.ones(3, 1), 2.0)
        >>> weighted_left("component", one, one.left, torch.tensor([1.0, 0.0, 0.5, 9.0]))
        tensor([[2., 0., 1.],
                [2., 0., 1.]])
    """
    if per == "component":
        return left * (one.scale * weights[: left.shape[-1]])
    return left * (one.scale * weights).view(-1, *[1] * (left.ndim - 1))


def whole_weights(per: Per, weights: Tensor) -> Tensor:
    """Return the weights of a tensor without factors, (n, K) → (1 or R, K); among components it is the first."""
    return weights[:1] if per == "component" else weights


def add_products(per: Per, total: Tensor, products: Tensor) -> None:
    """Add products (R, r) or (E, R, r) of one expert's factors to its column of the total, (n,)."""
    found = products.flatten(0, -2).sum(0) if per == "component" else products.flatten(1).sum(1)
    total[: len(found)] += found


def add_whole(per: Per, total: Tensor, rows: slice, products: Tensor) -> None:
    """Add products of whole tensors, (r,), to a column of the total, (n,)."""
    if per == "component":
        total[0] += products.sum()
    else:
        total[rows] += products


def packs(low: Sequence[tuple[int, LowRank]], most: int) -> list[list[tuple[int, LowRank]]]:
    """Divide factors so that the ranks of one pack add up to at most `most`, or it holds a single expert."""
    found: list[list[tuple[int, LowRank]]] = []
    total = 0
    for k, one in low:
        rank = len(one.right)
        if not found or total + rank > most:
            found.append([])
            total = 0
        found[-1].append((k, one))
        total += rank
    return found
