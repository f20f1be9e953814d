"""Which coefficient governs which parameter.

A grouping gives every parameter a vector of group indices: of length 1 where one coefficient governs the whole tensor,
of length R (its first dimension, the output channels) where each row has its own. All groupings of the package are
values of this one type, so *combine* and *inner* need to know only it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from adamerge.types import ConfigError

_BLOCK = re.compile(r"^(.*?\.\d+)\.")
"""The shortest prefix that ends in a number: `encoder.layer.3` of `encoder.layer.3.output.dense.weight`."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups and the parameters they govern.

    Attributes:
        groups: Name of each group, (G,).
        rows: For each parameter its group indices, int64, (1,) or (R,) with R its first dimension.
    """

    groups: tuple[str, ...]
    rows: Mapping[str, Tensor]

    def __len__(self) -> int:
        """The number of groups, G."""
        return len(self.groups)

    def members(self) -> dict[str, list[str]]:
        """Parameters that each group governs, wholly or in part.

        Example:
            >>> task_wise(["a", "b"]).members()
            {'model': ['a', 'b']}
        """
        members: dict[str, list[str]] = {group: [] for group in self.groups}
        for name, rows in self.rows.items():
            for group in distinct(rows):
                members[self.groups[int(group)]].append(name)
        return members


def task_wise(names: Sequence[str]) -> Grouping:
    """One coefficient an expert for the whole model, G = 1.

    Reference:
        Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, 2024, equation 4.
    """
    return by_label({name: "model" for name in names})


def tensor_wise(names: Sequence[str]) -> Grouping:
    """One coefficient an expert and tensor, G = the number of parameters ("layer-wise" in the paper).

    Reference:
        Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, 2024, equation 5.

    Example:
        >>> tensor_wise(["a", "b"]).groups
        ('a', 'b')
    """
    return by_label({name: name for name in names})


def block_wise(names: Sequence[str]) -> Grouping:
    """One coefficient an expert and transformer block; what lies outside the blocks is grouped by its module.

    A block is everything under one index of a module list. In a model with lists inside lists the outer one counts.

    Example:
        >>> block_wise(["emb.weight", "layer.0.a", "layer.0.b", "layer.1.a"]).groups
        ('emb', 'layer.0', 'layer.1')
    """
    return by_label({name: _block(name) for name in names})


def row_blocks(shapes: Mapping[str, Sequence[int]], blocks: int | Mapping[str, int]) -> Grouping:
    """Chunk-wise: the rows (output channels) of each matrix in nearly equal contiguous blocks; vectors stay whole.

    Args:
        shapes: Shape of each parameter.
        blocks: How many blocks a parameter gets, one number for all or one for each; at most its rows are used.

    Raises:
        ConfigError: A number of blocks is below 1.

    Example:
        >>> grouping = row_blocks({"w": (5, 3), "b": (5,)}, 2)
        >>> grouping.groups, grouping.rows["w"].tolist(), grouping.rows["b"].tolist()
        (('w[0:3]', 'w[3:5]', 'b'), [0, 0, 0, 1, 1], [2])
    """
    groups: list[str] = []
    rows: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        wanted = blocks if isinstance(blocks, int) else blocks.get(name, 1)
        if wanted < 1:
            raise ConfigError(f"{name}: expected at least 1 block of rows, got {wanted}.")
        count = min(wanted, shape[0]) if len(shape) > 1 else 1
        if count == 1:
            rows[name] = torch.tensor([len(groups)])
            groups.append(name)
            continue
        sizes = [len(part) for part in torch.arange(shape[0]).tensor_split(count)]
        rows[name] = torch.repeat_interleave(torch.arange(count), torch.tensor(sizes)) + len(groups)
        groups += [f"{name}[{end - size}:{end}]" for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return Grouping(tuple(groups), rows)


def by_label(labels: Mapping[str, str]) -> Grouping:
    """Parameters with equal labels share a group; groups stand in the order in which labels first appear.

    Example:
        >>> by_label({"a": "x", "b": "y", "c": "x"}).members()
        {'x': ['a', 'c'], 'y': ['b']}
    """
    groups = tuple(dict.fromkeys(labels.values()))
    index = {group: i for i, group in enumerate(groups)}
    return Grouping(groups, {name: torch.tensor([index[label]]) for name, label in labels.items()})


def distinct(rows: Tensor) -> Tensor:
    """Find the groups that occur among the group indices of a parameter's rows: (R,) → (g,), ascending.

    Example:
        >>> distinct(torch.tensor([5, 2, 2, 5]))
        tensor([2, 5])
    """
    return torch.bincount(rows).nonzero().squeeze(1)


def _block(name: str) -> str:
    found = _BLOCK.match(name)
    return found.group(1) if found else name.rpartition(".")[0] or name
