"""Exact order statistics of vectors too long for memory, by two passes over their bits."""

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.types import ConfigError

Scores: TypeAlias = Callable[[], Iterator[Tensor]]
"""A fresh pass over K long fp32 vectors, (K, N) at a time."""

Positions: TypeAlias = Callable[[int], tuple[int, ...]]
"""Length of a vector → the wanted positions (from 0) in its ascending order."""

Scope: TypeAlias = Literal["global", "tensor"]
"""Whether a share refers to an expert's whole vector or to each tensor."""

BUCKETS = 1 << 16


def ordered_bits(values: Tensor) -> Tensor:
    """Map floats to integers of the same order: the bits, with those below the sign flipped for negative values.

    Args:
        values: fp32, any shape, no NaN.

    Returns:
        int32 of the same shape; a < b implies ordered_bits(a) < ordered_bits(b).

    Example:
        >>> ordered_bits(torch.tensor([-2.0, -1.0, 0.0, 1e-30, 3.0])).diff().gt(0).all().item()
        True
    """
    bits = values.float().contiguous().view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def from_ordered_bits(keys: Tensor) -> Tensor:
    """Invert `ordered_bits`.

    Args:
        keys: int32, any shape.

    Returns:
        fp32 of the same shape.

    Example:
        >>> from_ordered_bits(ordered_bits(torch.tensor([-2.5, 0.0, 7.0])))
        tensor([-2.5000,  0.0000,  7.0000])
    """
    return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).view(torch.float32)


def order_statistics(scores: Scores, positions: Positions) -> Tensor:
    """Select exact order statistics of K vectors without holding them.

    A radix selection over the 32 ordered bits: the first pass counts the upper 16 bits of every number and so finds
    the bucket of each wanted position, the second counts the lower 16 bits inside these buckets. Besides one (K, N)
    block of scores it holds P·K·65536 counts.

    Args:
        scores: a fresh pass over the K vectors at each call, (K, N) at a time; called twice.
        positions: length of a vector → P positions from 0, ascending order.

    Returns:
        (P, K) fp32: the number at each position of each vector in ascending order.

    Raises:
        ConfigError: The pass yields no number.

    Example:
        >>> blocks = [torch.tensor([[5.0, 1.0], [-1.0, -3.0]]), torch.tensor([[3.0], [2.0]])]
        >>> order_statistics(lambda: iter(blocks), lambda length: (0, length - 1))
        tensor([[ 1., -3.],
                [ 5.,  2.]])
    """
    upper = _count_upper(scores)  # (K, 65536)
    wanted = torch.tensor(positions(int(upper[0].sum())), device=upper.device)  # (P,)
    bucket, rest = _locate(upper, wanted[:, None].expand(-1, len(upper)))  # (P, K) twice
    lower = _count_lower(scores, bucket)  # (P, K, 65536)
    digit, _ = _locate(lower, rest)
    keys = ((bucket - BUCKETS // 2) << 16) + digit
    return from_ordered_bits(keys.to(torch.int32))


def _count_upper(scores: Scores) -> Tensor:
    """Count the upper 16 bits of all numbers: (K, 65536)."""
    counts: Tensor | None = None
    for block in scores():
        digits = (ordered_bits(block) >> 16) + BUCKETS // 2  # (K, N)
        here = torch.stack([torch.bincount(row, minlength=BUCKETS) for row in digits])
        counts = here if counts is None else counts.add_(here)
    if counts is None or not counts.any():
        raise ConfigError(
            "There is no tensor to transform: expected experts that differ from the base, found none; "
            "check the models' paths."
        )
    return counts


def _count_lower(scores: Scores, bucket: Tensor) -> Tensor:
    """Count the lower 16 bits of the numbers whose upper 16 are those of a bucket (P, K): (P, K, 65536)."""
    counts = torch.zeros(*bucket.shape, BUCKETS, dtype=torch.int64, device=bucket.device)
    for block in scores():
        for k, keys in enumerate(ordered_bits(block)):
            upper, lower = (keys >> 16) + BUCKETS // 2, keys & 0xFFFF
            for p in range(len(bucket)):
                counts[p, k] += torch.bincount(lower[upper == bucket[p, k]], minlength=BUCKETS)
    return counts


def _locate(counts: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Find the bucket (P, K) that holds each position, and the position's rank inside it."""
    ends = counts.cumsum(-1).expand(*position.shape, BUCKETS).contiguous()
    bucket = torch.searchsorted(ends, position.unsqueeze(-1).contiguous(), right=True)
    before = torch.where(bucket > 0, ends.gather(-1, (bucket - 1).clamp(min=0)), 0)
    return bucket.squeeze(-1), position - before.squeeze(-1)
