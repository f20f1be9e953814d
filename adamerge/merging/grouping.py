"""Groupings: which coefficient applies to which parameter.

A grouping gives every parameter a vector of group indices: of length 1 if one coefficient applies to the whole tensor,
of length R (its first dimension, the output channels) if each row has its own. All groupings of the package are
values of this one type, the only one that *combine* and *inner* handle.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import cast

import torch
from torch import Tensor

from adamerge.types import ConfigError

_BLOCK = re.compile(r"^(.*?\.\d+)\.")
"""The shortest prefix that ends in a number: `encoder.layer.3` of `encoder.layer.3.output.dense.weight`."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups and their parameters.

    Attributes:
        groups: Name of each group, (G,).
        rows: Group indices per parameter, int64, (1,) or (R,) with R its first dimension.
    """

    groups: tuple[str, ...]
    rows: Mapping[str, Tensor]
    _copies: dict[tuple[tuple[str, ...], torch.device], Tensor] = field(
        default_factory=dict[tuple[tuple[str, ...], torch.device], Tensor], init=False, repr=False
    )

    def __len__(self) -> int:
        """Return the number of groups, G."""
        return len(self.groups)

    def of(self, names: tuple[str, ...], device: torch.device) -> Tensor:
        """Return the group indices of parameters of one shape on a device, to which they are copied once.

        Returns:
            int64, (P, 1) if each of them has one group, otherwise (P, R).

        Example:
            >>> row_blocks({"a": (2, 3), "b": (2, 3)}, {"a": 2}).of(("a", "b"), torch.device("cpu"))
            tensor([[0, 1],
                    [2, 2]])
        """
        if (names, device) not in self._copies:
            length = max(len(self.rows[name]) for name in names)
            self._copies[names, device] = torch.stack([self.rows[name].expand(length) for name in names]).to(device)
        return self._copies[names, device]

    def part(self, rows: Mapping[str, slice]) -> "Grouping":
        """Return the groups of some rows of some parameters.

        Example:
            >>> row_blocks({"a": (4, 3), "b": (2,)}, 2).part({"a": slice(1, 3), "b": slice(0, 1)}).rows
            {'a': tensor([0, 1]), 'b': tensor([2])}
        """
        own = {name: self.rows[name] for name in rows}
        return Grouping(self.groups, {name: one[rows[name]] if len(one) > 1 else one for name, one in own.items()})

    def members(self) -> dict[str, list[str]]:
        """List the parameters of each group, including those of which only some rows belong to it.

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
    """Use one coefficient per expert for the whole model, G = 1.

    Reference:
        Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, 2024, equation 4.
    """
    return by_label({name: "model" for name in names})


def tensor_wise(names: Sequence[str]) -> Grouping:
    """Use one coefficient per expert and tensor, G = the number of parameters ("layer-wise" in the paper).

    Reference:
        Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, 2024, equation 5.

    Example:
        >>> tensor_wise(["a", "b"]).groups
        ('a', 'b')
    """
    return by_label({name: name for name in names})


def block_wise(names: Sequence[str]) -> Grouping:
    """Use one coefficient per expert and transformer block; other parameters are grouped by module.

    A block is everything under one index of a module list; of nested lists, the outer one counts.

    Example:
        >>> block_wise(["emb.weight", "layer.0.a", "layer.0.b", "layer.1.a"]).groups
        ('emb', 'layer.0', 'layer.1')
    """
    return by_label({name: _block(name) for name in names})


def row_blocks(shapes: Mapping[str, Sequence[int]], blocks: int | Mapping[str, int]) -> Grouping:
    """Divide the rows (output channels) of each matrix into nearly equal contiguous blocks; vectors are not divided.

    Args:
        shapes: Shape of each parameter.
        blocks: Number of blocks, one for all parameters or one per parameter; at most the number of rows is used.

    Raises:
        ConfigError: A number of blocks is below 1.

    Example:
        >>> grouping = row_blocks({"w": (5, 3), "b": (5,)}, 2)
        >>> grouping.groups, grouping.rows["w"].tolist(), grouping.rows["b"].tolist()
        (('w[0:3]', 'w[3:5]', 'b'), [0, 0, 0, 1, 1], [2])
    """
    sizes: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        wanted = blocks if isinstance(blocks, int) else blocks.get(name, 1)
        if wanted < 1:
            raise ConfigError(f"{name}: expected at least 1 block of rows, found {wanted}.")
        sizes[name] = _nearly_equal(shape[0], wanted) if len(shape) > 1 else [1]
    return _by_sizes(sizes)


def split(coarse: Grouping, shapes: Mapping[str, Sequence[int]], parts: Mapping[str, int]) -> Grouping:
    """Divide blocks of rows further, each into nearly equal contiguous ones.

    Args:
        coarse: Groups of one parameter each: tensors, or blocks of their rows.
        shapes: Shape of each parameter.
        parts: Number of blocks that each group becomes; at most the number of its rows is used.

    Example:
        >>> coarse = row_blocks({"w": (5, 3), "b": (5,)}, 2)
        >>> split(coarse, {"w": (5, 3), "b": (5,)}, {"w[0:3]": 2, "b": 4}).groups
        ('w[0:2]', 'w[2:3]', 'w[3:5]', 'b')
    """
    return _by_sizes(
        {
            name: [
                size
                for group, count in zip(*_runs(coarse.rows[name], shape), strict=True)
                for size in _nearly_equal(count, parts.get(coarse.groups[group], 1))
            ]
            for name, shape in shapes.items()
        }
    )


def block_sizes(grouping: Grouping, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Count the rows of each group; a vector, or a scalar, is one row.

    Example:
        >>> block_sizes(row_blocks({"w": (5, 3), "b": (5,)}, 2), {"w": (5, 3), "b": (5,)})
        {'w[0:3]': 3, 'w[3:5]': 2, 'b': 1}
    """
    return {
        grouping.groups[group]: count
        for name, shape in shapes.items()
        for group, count in zip(*_runs(grouping.rows[name], shape), strict=True)
    }


def _runs(rows: Tensor, shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Find the groups of a parameter in the order of its rows, and how many rows each has."""
    index = cast(list[int], rows.expand(max(1, shape[0]) if len(shape) > 1 else 1).numpy().tolist())
    runs = [(group, len(list(own))) for group, own in groupby(index)]
    return [group for group, _ in runs], [count for _, count in runs]


def _nearly_equal(rows: int, wanted: int) -> list[int]:
    """Divide a number of rows into at most as many nearly equal sizes."""
    return [len(part) for part in torch.arange(rows).tensor_split(min(wanted, rows))] if rows else [0]


def _by_sizes(sizes: Mapping[str, Sequence[int]]) -> Grouping:
    """Make a group of each block of rows, and one of each parameter that has a single block."""
    groups: list[str] = []
    rows: dict[str, Tensor] = {}
    for name, own in sizes.items():
        index = torch.arange(len(own)) + len(groups)
        rows[name] = index if len(own) == 1 else index.repeat_interleave(torch.tensor(own))
        ends = zip(accumulate(own), own, strict=True)
        groups += [name] if len(own) == 1 else [f"{name}[{end - size}:{end}]" for end, size in ends]
    return Grouping(tuple(groups), rows)


def component_wise(components: Mapping[str, int]) -> Grouping:
    """Use one coefficient per expert, tensor and component of the factors: a column of B with its row of A.

    Only task vectors by component (factored_task_vectors.py) understand it.

    Args:
        components: Number of components per parameter.

    Example:
        >>> grouping = component_wise({"w": 2, "b": 1})
        >>> grouping.groups, grouping.rows["w"].tolist()
        (('w:0', 'w:1', 'b'), [0, 1])
    """
    groups: list[str] = []
    rows: dict[str, Tensor] = {}
    for name, count in components.items():
        rows[name] = torch.arange(count) + len(groups)
        groups += [f"{name}:{i}" for i in range(count)] if count > 1 else [name]
    return Grouping(tuple(groups), rows)


def by_label(labels: Mapping[str, str]) -> Grouping:
    """Group parameters with equal labels, in the order in which labels first appear.

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
