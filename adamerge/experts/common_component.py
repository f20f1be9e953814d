"""Signs of a wrong base in the task vectors: a component that experts share, or one expert far larger than the others.

    gram[d][j, k] = Σ over the parameters p of depth d of ⟨τⱼ[p], τₖ[p]⟩

Task vectors of one base and different tasks are nearly orthogonal. Experts of another base B' have τₖ = (B' − B) + uₖ,
and B' − B (an instruction tuning, another version) is mostly larger than uₖ: cosines are near 1 at every depth.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median

import torch
from torch import Tensor

PAIR = 0.75
"""Cosine of two task vectors among others, median over depths, above which they have most in common. Measured in good
pools: at most 0.07 (eight text classifiers), 0.03 (five LoRA experts), 0.54 (images upright and occluded). With a base
that is wrong by a random shift of 5 % of the weights' standard deviation, the text classifiers have 0.87 to 0.92."""

ALL = 0.25
"""Mean cosine with the others, of the expert that has least in common with them, above which all share something.
Measured in these pools: 0.002, 0.001 and 0.04. With another expert of the pool taken as the base: 0.37 to 0.57 (text),
0.34 to 0.74 (LoRA; 0.05 where that one's task vector is a quarter of the others'), 0.39 to 0.81 (images). Two experts
of related tasks alone, upright and occluded, cannot be told from that."""

FAR = 5.0
"""Ratio of an expert's relative size to the median of the others above which it is out of proportion; measured in the
same pools: at most 2.3, and 4.6 between the median of LoRA experts and the smallest, where none is wrong. One expert
of another base that is as far away as its task vector is long has 1.4: sizes do not show that, nor do cosines."""

NEAR = 0.01
"""The same ratio below which an expert hardly differs from the base."""


def depth_of(name: str) -> str:
    """Return the block of a parameter: its name up to the first number; without a number, its first part.

    Example:
        >>> depth_of("encoder.layer.3.output.dense.weight"), depth_of("embeddings.word.weight")
        ('encoder.layer.3', 'embeddings')
    """
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), 0)
    return ".".join(parts[: number + 1])


def _in_order(depth: str) -> list[tuple[bool, int, str]]:
    """Return what sorts depths by their names, and blocks of one name by their number.

    Example:
        >>> sorted(["layer.10", "layer.2", "embeddings"], key=_in_order)
        ['embeddings', 'layer.2', 'layer.10']
    """
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in depth.split(".")]


class Products:
    """Sums of inner products of task vectors by depth.

    Args:
        tasks: Names of the experts, (K,).
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tuple(tasks)
        self._grams: dict[str, Tensor] = {}

    def add(self, name: str, differences: Tensor) -> None:
        """Add a piece of a parameter's task vectors, (K, n)."""
        count = len(self._tasks)
        gram = self._grams.setdefault(depth_of(name), torch.zeros(count, count, dtype=torch.float64))
        gram += (differences @ differences.T).double()

    @property
    def by_depth(self) -> Mapping[str, Tensor]:
        """The inner products (K, K), fp64, by depth; blocks by their number, as files list 10 before 2."""
        return {depth: self._grams[depth] for depth in sorted(self._grams, key=_in_order)}

    def cosines(self) -> dict[tuple[str, str], float]:
        """Return the cosine of each pair of experts, median over the depths at which both differ from the base."""
        found = torch.stack([_cosines(gram) for gram in self._grams.values()]) if self._grams else torch.empty(0)
        pairs = [(j, k) for k in range(len(self._tasks)) for j in range(k)]
        seen = {(j, k): [value for value in found[:, j, k].tolist() if value == value] for j, k in pairs}
        return {(self._tasks[j], self._tasks[k]): median(values) for (j, k), values in seen.items() if values}


def _cosines(gram: Tensor) -> Tensor:
    """Compute cosines (K, K) from inner products; not a number where one of the two is zero."""
    norms = gram.diagonal().sqrt()
    return gram / torch.outer(norms, norms)


def alike(cosines: Mapping[tuple[str, str], float]) -> list[tuple[list[str], float]]:
    """Find experts with a large common component: all of them, or groups; return each group with its mean cosine.

    Example:
        >>> alike({("a", "b"): 0.8, ("a", "c"): 0.0, ("b", "c"): 0.0})
        [(['a', 'b'], 0.8)]
    """
    tasks = [*dict.fromkeys(task for pair in cosines for task in pair)]
    if tasks and least_shared(cosines) > ALL:
        return [(tasks, fmean(cosines.values()))]
    groups: list[list[str]] = []
    for pair in (pair for pair, cosine in cosines.items() if cosine > PAIR):
        met = [group for group in groups if set(group) & set(pair)]
        joined = dict.fromkeys([*(task for group in met for task in group), *pair])
        groups = [*(group for group in groups if group not in met), list(joined)]
    return [(group, fmean(c for pair, c in cosines.items() if set(pair) <= set(group))) for group in groups]


def least_shared(cosines: Mapping[tuple[str, str], float]) -> float:
    """Return the mean cosine with the others of the expert that has least in common with them.

    Example:
        >>> least_shared({("a", "b"): 0.5, ("a", "c"): 0.0, ("b", "c"): 0.25})
        0.125
    """
    tasks = {task for pair in cosines for task in pair}
    return min(fmean(cosine for pair, cosine in cosines.items() if task in pair) for task in tasks)


def ratios(sizes: Mapping[str, float]) -> dict[str, float]:
    """Divide each expert's size by the median of the others that are not 0; 1 without others.

    Example:
        >>> ratios({"a": 0.125, "b": 0.125, "c": 2.0})["c"]
        16.0
    """
    others = {task: [size for name, size in sizes.items() if name != task and size > 0] for task in sizes}
    return {task: size / median(others[task]) if others[task] else 1.0 for task, size in sizes.items()}
