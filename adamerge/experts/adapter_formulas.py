"""Changes of weights by adapters: pure functions from an adapter's tensors and the base's tensor to the expert's."""

from collections.abc import Callable

import torch
from torch import Tensor

from adamerge.experts.low_rank import LowRank
from adamerge.storage.weights import Weights


def read(tensors: Weights, a: str, b: str, *, flipped: bool) -> tuple[Tensor, Tensor]:
    """Return (left, right); flipped factors are those of the transposed matrix."""
    first, second = tensors[a], tensors[b]
    return (first.T, second.T) if flipped else (second.flatten(1), first.flatten(1))


def factor_shapes(a: torch.Size, b: torch.Size, *, flipped: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of `read`'s (left, right) without reading."""
    if flipped:
        return tuple(reversed(a)), tuple(reversed(b))
    return (b[0], b.numel() // max(b[0], 1)), (a[0], a.numel() // max(a[0], 1))


def scaled(read: Callable[[], tuple[Tensor, Tensor]], scale: float) -> LowRank:
    """Read factors with their scale."""
    return LowRank(*read(), scale)


def replaced(value: Tensor, base: Tensor) -> Tensor:
    """Replace a tensor by one that was trained whole."""
    return value.to(base.dtype)


def shifted(shift: Tensor, base: Tensor) -> Tensor:
    """Add scale · b of a bias of factors."""
    return base + shift


def plus(change: Tensor, scale: float, base: Tensor) -> Tensor:
    """Add a dense change."""
    return base + scale * change.to(base.dtype)


def with_rows(rows: Tensor, values: Tensor, base: Tensor) -> Tensor:
    """Replace rows of an embedding by those that were trained."""
    return base.index_copy(0, rows, values.to(base.dtype))


def dora(low_rank: Callable[[], LowRank], magnitude: Tensor, base: Tensor, *, transposed: bool) -> Tensor:
    """W' = m · (W + ΔW) / ‖W + ΔW‖ per output. Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024."""
    whole = base + low_rank().dense(base.shape, base.dtype)
    outputs = 1 if transposed else 0
    others = [dim for dim in range(whole.ndim) if dim != outputs]
    norm = torch.linalg.vector_norm(whole, dim=others, keepdim=True)
    return whole * (magnitude.to(base.dtype).reshape(norm.shape) / norm)


def fused_change(a: Tensor, b: Tensor, shape: torch.Size, transposed: bool) -> Tensor | None:
    """Return B A of every expert in the parameter's layout; the expert's index is outer in A and inner in B."""
    count = shape[0]
    if len(a) % count or len(a) != b.shape[1]:
        return None
    by_expert = a.float().view(count, -1, a.shape[1])  # (E, r, in)
    outputs = b.float().view(len(b), -1, count)  # (out, r, E)
    change = torch.einsum("ore,eri->eoi", outputs, by_expert)
    fits = [change.shape == shape, change.mT.shape == shape]
    if fits[0] and not (fits[1] and transposed):
        return change
    return change.mT if fits[1] else None
