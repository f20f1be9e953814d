"""Convex quadratics whose minimiser over a feasible set is known by construction, on a proper face of the set."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adamerge.optim.feasible_sets import Box, FeasibleSet, Simplex

if TYPE_CHECKING:
    from collections.abc import Callable

    from adamerge.optim import SearchingOptimizer

EXPERTS = 6
ACTIVE = 3  # coefficients of the minimiser that are strictly inside their bounds


@dataclass(frozen=True)
class Quadratic:
    """½ Σ_g (c_g - centre_g)ᵀ A_g (c_g - centre_g)."""

    matrices: Tensor  # (G, K, K)
    centre: Tensor  # (G, K)
    minimiser: Tensor  # (G, K), over the set
    start: Tensor  # (G, K), in the set

    def loss(self, coefficients: Tensor) -> Tensor:
        away = coefficients - self.centre
        return 0.5 * torch.einsum("gk,gkj,gj->", away, self.matrices, away)

    def gradient(self, coefficients: Tensor) -> Tensor:
        return torch.einsum("gkj,gj->gk", self.matrices, coefficients - self.centre)

    @property
    def minimum(self) -> float:
        return self.loss(self.minimiser).item()

    @property
    def curvature(self) -> float:
        return torch.linalg.eigvalsh(self.matrices).max().item()

    def to(self, dtype: torch.dtype) -> Quadratic:
        return Quadratic(self.matrices.to(dtype), self.centre.to(dtype), self.minimiser.to(dtype), self.start.to(dtype))


def quadratic(feasible: FeasibleSet, groups: int = 1, seed: int = 0) -> Quadratic:
    """Choose the minimiser and a gradient that satisfies the optimality conditions there; the centre follows."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    factors = uniform(-1.0, 1.0, groups, EXPERTS, EXPERTS)
    matrices = factors @ factors.mT + 0.2 * torch.eye(EXPERTS, dtype=torch.float64)
    inside = uniform(0.2, 0.8, groups, ACTIVE)
    slopes = uniform(0.5, 1.0, groups, EXPERTS - ACTIVE)
    if isinstance(feasible, Simplex):
        radius = feasible.radius * (0.7 if feasible.includes_base else 1.0)
        minimiser = torch.cat([radius * inside / inside.sum(1, keepdim=True), torch.zeros_like(slopes)], dim=1)
        # On the face all slopes are equal (0 where the base has weight too), off it they are greater.
        level = 0.0 if feasible.includes_base else -0.3
        gradient = level + torch.cat([torch.zeros_like(inside), slopes], dim=1)
        start = torch.zeros(groups, EXPERTS, dtype=torch.float64)
        start[:, -1] = feasible.radius
    else:
        box = feasible if isinstance(feasible, Box) else Box(-9.0, 9.0)
        width = box.upper - box.lower
        upper = torch.arange(EXPERTS - ACTIVE) % 2 == 0
        ends = torch.full((groups, EXPERTS - ACTIVE), box.lower, dtype=torch.float64).masked_fill(upper, box.upper)
        minimiser = torch.cat([box.lower + width * inside, ends], dim=1)
        outward = torch.where(upper, -slopes, slopes) if isinstance(feasible, Box) else torch.zeros_like(slopes)
        gradient = torch.cat([torch.zeros_like(inside), outward], dim=1)
        start = torch.full((groups, EXPERTS), box.lower + 0.3 * width, dtype=torch.float64)
    centre = minimiser - torch.linalg.solve(matrices, gradient[..., None])[..., 0]
    return Quadratic(matrices, centre, minimiser, start)


def closure_of(problem: Quadratic, coefficients: nn.Parameter) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        coefficients.grad = None
        loss = problem.loss(coefficients)
        loss.backward()
        return loss

    return closure


def resumed_and_not(
    problem: Quadratic, make: Callable[[nn.Parameter], SearchingOptimizer], before: int = 4, after: int = 5
) -> tuple[tuple[Tensor, SearchingOptimizer], tuple[Tensor, SearchingOptimizer]]:
    """Run before + after steps without a break, and with a break through a file after `before` of them."""

    def run(coefficients: nn.Parameter, optimizer: SearchingOptimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.step(closure_of(problem, coefficients))

    whole = nn.Parameter(problem.start.clone())
    unbroken = make(whole)
    run(whole, unbroken, before)
    file = io.BytesIO()
    torch.save({"coefficients": whole.detach(), "optimizer": unbroken.state_dict()}, file)
    run(whole, unbroken, after)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    part = nn.Parameter(problem.start.clone())
    resumed = make(part)
    with torch.no_grad():
        part.copy_(saved["coefficients"])
    resumed.load_state_dict(saved["optimizer"])
    run(part, resumed, after)
    return (whole.detach(), unbroken), (part.detach(), resumed)


def same(left: object, right: object) -> bool:
    """Whether two state dicts hold the same bits."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
