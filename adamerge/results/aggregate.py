"""Sum up coefficients of thousands of groups: by depth and by kind of module."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adamerge.experts.common_component import depth_of
from adamerge.types import Coefficients

_ROWS = re.compile(r"\[\d+:\d+\]$")


def kind_of_module(group: str) -> str:
    """Name the module of a group, which is the same in every block: what follows the block, without rows.

    Example:
        >>> kind_of_module("encoder.layer.3.attention.query.weight[0:8]"), kind_of_module("embeddings.word.weight")
        ('attention.query.weight', 'embeddings.word.weight')
        >>> kind_of_module("layers.2.mlp.experts.7.up.weight"), kind_of_module("encoder.layer.3")
        ('mlp.experts.*.up.weight', 'block')
    """
    name, depth = _ROWS.sub("", group), depth_of(_ROWS.sub("", group))
    inside = name[len(depth) + 1 :] if depth.rpartition(".")[2].isdecimal() else name
    return ".".join("*" if part.isdecimal() else part for part in inside.split(".")) or "block"


def depth_of_group(group: str) -> str:
    """Name the block of a group.

    Example:
        >>> depth_of_group("encoder.layer.3.attention.query.weight[0:8]")
        'encoder.layer.3'
    """
    return depth_of(_ROWS.sub("", group))


class Aggregate:
    """Coefficients of several groups together.

    Attributes:
        labels: Names, (A,).
        mean: Mean over each one's groups, (A, K).
        low: Minimum, (A, K).
        high: Maximum, (A, K).
        counts: Number of groups of each.
    """

    def __init__(self, coefficients: Coefficients, groups: Sequence[str], label: Callable[[str], str]) -> None:
        members: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            members.setdefault(label(group), []).append(index)
        parts = [coefficients[index] for index in members.values()]
        self.labels: tuple[str, ...] = tuple(members)
        self.mean: Tensor = torch.stack([part.mean(0) for part in parts])
        self.low: Tensor = torch.stack([part.amin(0) for part in parts])
        self.high: Tensor = torch.stack([part.amax(0) for part in parts])
        self.counts: tuple[int, ...] = tuple(len(part) for part in parts)

    def __len__(self) -> int:
        """Return their number, A."""
        return len(self.labels)
