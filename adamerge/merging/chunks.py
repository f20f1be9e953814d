"""Chunks: divide a budget of row blocks among parameters by importance, one coefficient per block."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.merging.grouping import Grouping, row_blocks
from adamerge.merging.task_vectors import TaskVectors, matrix_shape
from adamerge.types import Coefficients, ConfigError, check_types

Importance: TypeAlias = dict[str, float]
"""Share of each parameter; they sum to 1."""


@dataclass(frozen=True)
class Chunks:
    """Second stage of learning, in which important matrices have one coefficient per block of rows.

    Attributes:
        budget: Coefficients per expert, in multiples of the number of tensors.
        allocation: How blocks are divided among matrices: by importance; or, as baselines, uniform or random.
        importance: Importance of a parameter, with c its learned coefficients, τ its task vectors and n its size: rms
            (Σₖ |cₖ|·‖τₖ‖/√n), norm (Σₖ |cₖ|·‖τₖ‖), energy (Σₖ cₖ²·‖τₖ‖²·n), or gradient (Σₖ |cₖ·∂L/∂cₖ|, mean over
            the first stage's steps).
        most: Largest number of blocks per parameter.
        first_steps: Steps of the tensor-wise first stage, out of trainer.max_steps; 0 skips it.
    """

    budget: float = 8.0
    allocation: Literal["importance", "uniform", "random"] = "importance"
    importance: Literal["gradient", "rms", "norm", "energy"] = "gradient"
    most: int = 64
    first_steps: int = 20

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
        check_types(self)
        if not 1 <= self.budget < math.inf:
            raise ConfigError(
                f"chunks.budget: expected a finite number of at least 1 (the number of tensors), found {self.budget}."
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
    """Compute every parameter's importance from Σₖ |cₖ·∂L/∂cₖ|, (G,), normalised to Σ = 1; needs tensor-wise groups."""
    return _shares({name: product[rows].item() for name, rows in grouping.rows.items()})


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


def chunked(vectors: TaskVectors, chunks: Chunks, shares: Importance | None, seed: int) -> Grouping:
    """Divide parameters into row blocks within the budget.

    Args:
        vectors: Task vectors, for the parameters' shapes.
        chunks: Budget, allocation and limit.
        shares: Importance; required if the allocation is by importance.
        seed: Seed of the random allocation.
    """
    rows = {name: matrix_shape(shape)[0] for name, shape in vectors.shapes.items()}
    if chunks.allocation == "uniform":
        shares = dict.fromkeys(rows, 1.0)
    elif chunks.allocation == "random":
        drawn = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed))
        shares = {name: float(share) for name, share in zip(rows, drawn, strict=True)}
    assert shares is not None  # the allocation by importance
    most = {name: min(chunks.most, count) for name, count in rows.items()}
    return row_blocks(vectors.shapes, allot(shares, most, round(chunks.budget * len(rows))))


def _shares(raw: Mapping[str, float]) -> Importance:
    total = sum(raw.values())
    return {name: value / total if total else 1 / len(raw) for name, value in raw.items()}
