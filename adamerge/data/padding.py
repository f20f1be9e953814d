"""How rows of unequal length are padded, and which of them share a forward pass."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Side: TypeAlias = Literal["right", "left"]

Share: TypeAlias = Literal["any", "equal", "none"]
"""Which rows share a forward pass: rows of any lengths, rows of equal length (nothing is padded), or none."""


@dataclass(frozen=True)
class Padding:
    """How rows are padded, and which of them share a forward pass.

    Attributes:
        side: Side of the padding.
        share: Which rows share a forward pass.
        length: Length to which every row is padded; None pads to the longest row of the batch.

    Example:
        >>> lengths = [3, 2, 3]
        >>> [list(batch) for batch in Padding(share="equal").split([0, 2, 1], lambda i: lengths[i], size=8)]
        [[0, 2], [1]]
    """

    side: Side = "right"
    share: Share = "any"
    length: int | None = None

    def split(self, order: Sequence[int], length: Callable[[int], Hashable], size: int) -> Iterator[Sequence[int]]:
        """Divide rows into batches of at most `size` rows.

        Args:
            order: Indices of the rows.
            length: Length of a row by its index.
            size: Maximum number of rows per batch.

        Yields:
            The indices of each batch; all rows once.
        """
        groups: dict[Hashable, list[int]] = {}
        for index in order:
            groups.setdefault(length(index) if self.share == "equal" else None, []).append(index)
        size = 1 if self.share == "none" else size
        for group in groups.values():
            for start in range(0, len(group), size):
                yield group[start : start + size]


def pad(rows: Sequence[list[int]], filler: int, padding: Padding = Padding()) -> tuple[Tensor, Tensor]:
    """Pad rows of token ids to one length.

    Args:
        rows: Token ids of each row, or another number per token.
        filler: What to fill with.
        padding: Side and length.

    Returns:
        The ids and the mask of positions that are not padding, both int64, (B, S).

    Example:
        >>> [tensor.tolist() for tensor in pad([[5, 6], [7]], 0)]
        [[[5, 6], [7, 0]], [[1, 1], [1, 0]]]
    """
    length = max(padding.length or 0, *(len(row) for row in rows))
    ids = torch.full((len(rows), length), filler)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if padding.side == "left" else slice(len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.int64)
        mask[i, place] = 1
    return ids, mask
