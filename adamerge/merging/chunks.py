"""Chunks: divide a budget of row blocks among tensors, or among their blocks, by importance; one coefficient each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.merging.grouping import Grouping, block_sizes, split
from adamerge.merging.matrices import matrix_shape
from adamerge.merging.task_vectors import TaskVectors
from adamerge.types import Coefficients, ConfigError, check_types

Importance: TypeAlias = dict[str, float]
"""Share of each group; they sum to 1."""

FIXED: Final = 8.0
"""Budget where none is given, and where one that grows has no held-out rows to grow by."""


@dataclass(frozen=True)
class Chunks:
    """Later stages of learning, in which important matrices have one coefficient per block of rows.

    Attributes:
        budget: Coefficients per expert, in multiples of the number of tensors, for one second stage; or auto: stages
            with `growth` times as many follow each other as long as held-out rows say that they pay.
        allocation: How blocks are divided among matrices: by importance; or, as baselines, uniform or random.
        importance: Importance of a parameter, with c its learned coefficients, τ its task vectors and n its size: rms
            (Σₖ |cₖ|·‖τₖ‖/√n), norm (Σₖ |cₖ|·‖τₖ‖), energy (Σₖ cₖ²·‖τₖ‖²·n), or gradient (Σₖ |cₖ·∂L/∂cₖ|, mean over
            the first stage's steps).
        most: Largest number of blocks per parameter.
        first_steps: Steps of the tensor-wise first stage, out of trainer.max_steps; 0 skips it. With budget: auto,
            steps of every stage but the last, up to the next evaluation.
        growth: With budget: auto, how many times as many coefficients the next stage has.
        least: With budget: auto, relative fall in a stage of what is measured on held-out rows (divergence; the
            objective where that is unknown) that pays for the next one.
    """

    budget: float | Literal["auto"] = FIXED
    allocation: Literal["importance", "uniform", "random"] = "importance"
    importance: Literal["gradient", "rms", "norm", "energy"] = "gradient"
    most: int = 64
    first_steps: int = 20
    growth: float = 4.0
    least: float = 0.05

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
        check_types(self)
        if not isinstance(self.budget, str) and not 1 <= self.budget < math.inf:
            raise ConfigError(
                "chunks.budget: expected a finite number of at least 1 (the number of tensors), or auto, found "
                f"{self.budget}."
            )
        if self.most < 1:
            raise ConfigError(f"chunks.most: expected at least 1, found {self.most}.")
        if self.first_steps < 0:
            raise ConfigError(f"chunks.first_steps: expected at least 0, found {self.first_steps}.")
        if self.allocation == "importance" and self.importance == "gradient" and self.first_steps < 2:
            raise ConfigError(  # at the first step the coefficients may be 0, and with them cₖ·∂L/∂cₖ
                f"chunks.first_steps: expected at least 2 steps to measure importance: gradient, found "
                f"{self.first_steps}. Raise it, or set importance: rms."
            )
        if not 1 < self.growth < math.inf:
            raise ConfigError(f"chunks.growth: expected a finite number above 1, found {self.growth}.")
        if not 0 < self.least < 1:
            raise ConfigError(f"chunks.least: expected a number between 0 and 1, found {self.least}.")
        if self.grows and self.allocation == "importance" and self.importance != "gradient":
            raise ConfigError(
                f"chunks.importance: expected gradient with budget: auto, found {self.importance}, which is of whole "
                "tensors, while later stages divide blocks of rows. Set importance: gradient, or a number as budget."
            )

    def settled(self, *, watched: bool) -> "Chunks":
        """Return the same with a fixed budget where it should grow, but there are no held-out rows to grow by."""
        return replace(self, budget=FIXED) if self.grows and not watched else self

    @property
    def grows(self) -> bool:
        """Whether the budget grows while that pays."""
        return self.budget == "auto"

    def budget_of(self, stage: int) -> float:
        """Return the budget of a stage, counted from 1 (tensor-wise).

        Example:
            >>> Chunks(8).budget_of(2), [Chunks("auto").budget_of(stage) for stage in (1, 2, 3)]
            (8, [1.0, 4.0, 16.0])
        """
        return self.growth ** (stage - 1) if isinstance(self.budget, str) else self.budget


def importance(vectors: TaskVectors, coefficients: Coefficients, grouping: Grouping, form: str) -> Importance:
    """Compute every parameter's importance from the size of its learned update, normalised to Σ = 1.

    Args:
        vectors: The task vectors τ.
        coefficients: c after the first stage, (G, K).
        grouping: Of that stage, tensor-wise.
        form: rms, norm or energy; see `Chunks`.

    Reference:
        Zhang et al., Expert Merging, 2025, names the ingredients: coefficients, task vectors' magnitudes, parameter
        counts. The formulas are ours.
    """
    raw: dict[str, float] = {}
    for name, shape in vectors.shapes.items():
        norms = vectors.norms(name).cpu()  # ‖τₖ‖, (K,)
        weighted, size = coefficients[grouping.rows[name]].cpu()[0].abs() * norms, shape.numel()
        match form:
            case "rms":
                raw[name] = weighted.sum().item() / size**0.5
            case "norm":
                raw[name] = weighted.sum().item()
            case _:
                raw[name] = weighted.square().sum().item() * size
    return _shares(raw)


def importance_by_gradient(product: Tensor, grouping: Grouping) -> Importance:
    """Compute every group's importance from Σₖ |cₖ·∂L/∂cₖ|, (G,), normalised to Σ = 1."""
    return _shares({name: product[g].item() for g, name in enumerate(grouping.groups)})


def allot(shares: Importance, most: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide a number of chunks among parameters by largest remainder: at least 1 each, at most `most`.

    Args:
        shares: Share of each parameter; any positive numbers.
        most: Largest number of chunks per parameter.
        total: Number of chunks; chunks above the sum of `most` are dropped.

    Example:
        >>> allot({"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 4, "b": 9, "c": 9}, 10)
        {'a': 4, 'b': 4, 'c': 2}
    """
    counts = dict.fromkeys(shares, 1)
    open_ = {name for name in shares if most[name] > 1}
    while open_:
        left = total - sum(counts.values())
        weight = sum(shares[name] for name in open_)
        if left <= 0 or weight <= 0:
            break
        due = {name: left * shares[name] / weight for name in sorted(open_)}
        full = {name for name in due if counts[name] + due[name] >= most[name]}
        if full:  # they get their largest number, and the others share the rest
            counts |= {name: most[name] for name in full}
            open_ -= full
            continue
        counts = {name: count + int(due.get(name, 0)) for name, count in counts.items()}
        by_remainder = sorted(due, key=lambda name: (int(due[name]) - due[name], name))
        for name in by_remainder[: total - sum(counts.values())]:
            counts[name] += 1
        break
    return counts


def chunked(
    vectors: TaskVectors, chunks: Chunks, shares: Importance | None, seed: int, coarse: Grouping, stage: int = 2
) -> Grouping:
    """Divide tensors, or blocks of their rows, into blocks within the budget of a stage.

    Args:
        vectors: Task vectors, for the parameters' shapes.
        chunks: Budget, allocation and limit.
        shares: Importance of the groups; required if the allocation is by importance.
        seed: Seed of the random allocation.
        coarse: Groups of the stage before.
        stage: Number of the stage, from 1, which is tensor-wise.
    """
    most = most_blocks(vectors.shapes, chunks, coarse)
    if chunks.allocation == "uniform":
        shares = dict.fromkeys(most, 1.0)
    elif chunks.allocation == "random":
        drawn = torch.rand(len(most), generator=torch.Generator().manual_seed(seed))
        shares = {group: float(share) for group, share in zip(most, drawn, strict=True)}
    assert shares is not None  # the allocation by importance
    return split(coarse, vectors.shapes, allot(shares, most, round(chunks.budget_of(stage) * len(vectors.shapes))))


def most_blocks(shapes: Mapping[str, torch.Size], chunks: Chunks, coarse: Grouping) -> dict[str, int]:
    """Find the largest number of blocks of each group: its share of its parameter's, and at most its rows.

    Example:
        >>> from adamerge.merging.grouping import tensor_wise
        >>> shapes = {"w": torch.Size([100, 3]), "b": torch.Size([5])}
        >>> most_blocks(shapes, Chunks("auto", most=10), split(tensor_wise("wb"), shapes, {"w": 4}))
        {'w[0:25]': 2, 'w[25:50]': 2, 'w[50:75]': 2, 'w[75:100]': 2, 'b': 1}
    """
    rows = {name: matrix_shape(shape)[0] for name, shape in shapes.items()}
    of_group = {group: rows[names[0]] for group, names in coarse.members().items()}
    sizes = block_sizes(coarse, shapes)
    return {group: max(1, min(size, chunks.most * size // max(1, of_group[group]))) for group, size in sizes.items()}


def most_groups(shapes: Mapping[str, torch.Size], chunks: Chunks, coarse: Grouping) -> int:
    """Find the largest number of groups that learning may end with, from those that it begins with.

    Example:
        >>> from adamerge.merging.grouping import tensor_wise
        >>> shapes = {"w": torch.Size([100, 3]), "b": torch.Size([5])}
        >>> [most_groups(shapes, Chunks(budget), split(tensor_wise("wb"), shapes, {})) for budget in (8, "auto")]
        [16, 65]
    """
    budget = chunks.budget
    return sum(most_blocks(shapes, chunks, coarse).values()) if isinstance(budget, str) else round(budget * len(coarse))


def _shares(raw: Mapping[str, float]) -> Importance:
    total = sum(raw.values())
    return {name: value / total if total else 1 / len(raw) for name, value in raw.items()}
