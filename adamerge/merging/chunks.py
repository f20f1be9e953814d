"""More coefficients where they matter: a budget of row blocks, allotted to parameters by importance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.merging.grouping import Grouping, row_blocks
from adamerge.merging.task_vectors import TaskVectors, matrix_shape
from adamerge.types import Coefficients, ConfigError

Importance: TypeAlias = dict[str, float]
"""Share of each parameter; they sum to 1."""


@dataclass(frozen=True)
class Chunks:
    """A second stage of learning in which important matrices have a coefficient for each block of rows.

    Attributes:
        budget: Coefficients an expert, in multiples of the tensor-wise count.
        allocation: importance, or what it must beat: uniform (every matrix alike) or random.
        importance: What makes a parameter important, with c its learned coefficients, τ its task vectors and n its
            size: rms (Σₖ |cₖ|·‖τₖ‖/√n), norm (Σₖ |cₖ|·‖τₖ‖), energy (Σₖ cₖ²·‖τₖ‖²·n), or gradient (Σₖ |cₖ·∂L/∂cₖ|,
            its mean over the first stage's steps).
        most: Chunks a parameter at most.
        first_steps: Steps of the tensor-wise stage, out of trainer.max_steps; 0 goes without it.
    """

    budget: float = 8.0
    allocation: Literal["importance", "uniform", "random"] = "importance"
    importance: Literal["gradient", "rms", "norm", "energy"] = "gradient"
    most: int = 64
    first_steps: int = 20

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.budget < math.inf:
            raise ConfigError(
                f"chunks.budget: expected a finite number of at least 1 (the tensor-wise count), got {self.budget}."
            )
        if self.most < 1:
            raise ConfigError(f"chunks.most: expected at least 1, got {self.most}.")
        if self.first_steps < 0:
            raise ConfigError(f"chunks.first_steps: expected at least 0, got {self.first_steps}.")
        if self.allocation == "importance" and self.importance == "gradient" and self.first_steps < 2:
            raise ConfigError(  # at the first step the coefficients may be 0, and with them cₖ·∂L/∂cₖ
                f"chunks.first_steps: expected at least 2, since importance by gradient is found there, got "
                f"{self.first_steps}."
            )


def importance(vectors: TaskVectors, coefficients: Coefficients, grouping: Grouping, form: str) -> Importance:
    """Importance of every parameter from the size of its learned update, normalised to Σ = 1.

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
        norms = torch.stack(
            [vector.norm() for vector in vectors.stack(name)]  # pyright: ignore[reportUnknownMemberType]
        ).cpu()  # ‖τₖ‖, (K,)
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
    """Importance of every parameter from Σₖ |cₖ·∂L/∂cₖ|, (G,), normalised to Σ = 1; the grouping is tensor-wise."""
    return _shares({name: product[rows].item() for name, rows in grouping.rows.items()})


def allot(shares: Importance, most: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide a number of chunks among parameters by largest remainder: at least 1 each, at most so many.

    Args:
        shares: What each parameter deserves; any positive numbers.
        most: What each parameter can take.
        total: Chunks in all; what nobody can take is left.

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
        if full:  # they take all they can, and the others share what is left
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
    """Row blocks by the budget.

    Args:
        vectors: For the parameters' shapes.
        chunks: Budget, allocation and limit.
        shares: Importance; needed where that is what counts.
        seed: Of the random allocation.
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
