import math

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, linprog, minimize

from adamerge.optim.feasible_sets import Box, FeasibleSet, Simplex, Unbounded, project_simplex
from adamerge.types import ConfigError

ROWS, EXPERTS = 12, 5
COMPACT = [
    Box(),
    Box(-0.5, 0.25),
    Simplex(),
    Simplex(2.4),
    Simplex(0.3, includes_base=True),
    Simplex(2.4, includes_base=True),
]
ALL: list[FeasibleSet] = [*COMPACT, Unbounded()]


def rows(seed, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(ROWS, EXPERTS, generator=generator, dtype=dtype)


def constraints_of(feasible):
    """Bounds and sum constraint of one row, in SciPy's terms."""
    if isinstance(feasible, Box):
        return [(feasible.lower, feasible.upper)] * EXPERTS, None
    least = -np.inf if feasible.includes_base else feasible.radius
    return [(0.0, None)] * EXPERTS, LinearConstraint(np.ones((1, EXPERTS)), least, feasible.radius)


@pytest.mark.parametrize("feasible", COMPACT, ids=str)
def test_projection_agrees_with_slsqp(feasible):
    points = rows(1)
    bounds, total = constraints_of(feasible)
    for point, projected in zip(points.numpy(), feasible.project(points).numpy(), strict=True):
        truth = minimize(
            lambda x, point=point: np.square(x - point).sum(),
            np.full(EXPERTS, 0.05),
            jac=lambda x, point=point: 2 * (x - point),
            method="SLSQP",
            bounds=bounds,
            constraints=[] if total is None else [total],
            options={"ftol": 1e-14, "maxiter": 200},
        )
        assert truth.success
        np.testing.assert_allclose(projected, truth.x, atol=1e-6)


@pytest.mark.parametrize("feasible", COMPACT, ids=str)
def test_vertex_agrees_with_linprog(feasible):
    gradients = torch.cat([rows(2), rows(2).abs(), -rows(2).abs()])
    bounds, _ = constraints_of(feasible)
    at_most = equal = None
    if isinstance(feasible, Simplex):
        total = (np.ones((1, EXPERTS)), [feasible.radius])
        at_most, equal = (total, None) if feasible.includes_base else (None, total)
    for gradient, vertex in zip(gradients.numpy(), feasible.vertex(gradients).numpy(), strict=True):
        matrix, sums = at_most or (None, None)
        equal_matrix, equal_sums = equal or (None, None)
        truth = linprog(gradient, A_ub=matrix, b_ub=sums, A_eq=equal_matrix, b_eq=equal_sums, bounds=bounds)
        assert truth.success
        np.testing.assert_allclose(vertex, truth.x, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("feasible", ALL, ids=str)
def test_projection_is_feasible_and_idempotent(feasible, scale, dtype):
    once = feasible.project(rows(3, scale, dtype))
    rounding = 8 * torch.finfo(dtype).eps * max(1.0, once.abs().max().item())
    assert once.dtype == dtype
    assert feasible.contains(once, rounding)
    torch.testing.assert_close(feasible.project(once), once, atol=rounding, rtol=0.0)


@pytest.mark.parametrize("feasible", COMPACT, ids=str)
def test_gap_bounds_every_linear_decrease(feasible):
    gradient, points = rows(4), feasible.project(rows(5))
    others = torch.stack([feasible.project(rows(seed)) for seed in range(10, 30)])
    gap = feasible.gap(points, gradient).item()
    assert gap >= 0
    decreases = (gradient * (points - others)).sum(dim=(1, 2))
    assert gap >= decreases.max().item()
    assert feasible.gap(feasible.vertex(gradient), gradient).item() == 0


@pytest.mark.parametrize("feasible", COMPACT, ids=str)
def test_vertices_are_in_the_set(feasible):
    assert feasible.contains(feasible.vertex(rows(6)), 0.0)


def test_simplex_without_gradient_of_descent_selects_the_base():
    gradient = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    expected = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    assert torch.equal(Simplex(3.0, includes_base=True).vertex(gradient), expected)


def test_minus_infinity_confines_a_row_to_a_face():
    row = torch.tensor([[0.4, -torch.inf, 0.1], [-torch.inf, -5.0, -torch.inf]])
    expected = torch.stack([project_simplex(torch.tensor([0.4, 0.1])), torch.tensor([1.0, 0.0])])
    projected = project_simplex(row)
    torch.testing.assert_close(projected[:, 1], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(projected[0, [0, 2]], expected[0])
    torch.testing.assert_close(projected[1, [0, 2]], torch.zeros(2))


def test_large_numbers_keep_the_sum():
    projected = project_simplex(torch.tensor([[1e6, 1e6 + 0.25, -1e6]]))
    torch.testing.assert_close(projected, torch.tensor([[0.375, 0.625, 0.0]]))


@pytest.mark.parametrize(
    ("feasible", "outside"),
    [
        (Box(), [[0.5, 1.1]]),
        (Simplex(), [[0.5, 0.4]]),
        (Simplex(), [[1.5, -0.5]]),
        (Simplex(includes_base=True), [[0.6, 0.6]]),
        (Simplex(), [[math.nan, 1.0]]),
        (Box(), [[0.5, math.inf]]),
    ],
)
def test_contains_refuses(feasible, outside):
    assert not feasible.contains(torch.tensor(outside))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(1.0, 1.0), "lower < upper"),
        (lambda: Box(0.5, 0.0), "lower < upper"),
        (lambda: Box(math.nan, 1.0), "finite"),
        (lambda: Box(0.0, math.inf), "finite"),
        (lambda: Simplex(0.0), "above 0, found 0.0"),
        (lambda: Simplex(-1.0), "above 0, found -1.0"),
        (lambda: Simplex(math.nan), "above 0, found nan"),
        (lambda: Simplex(math.inf), "above 0, found inf"),
        (lambda: Unbounded().vertex(torch.ones(1, 2)), "no vertex"),
        (lambda: Unbounded().gap(torch.ones(1, 2), torch.ones(1, 2)), "no vertex"),
        (lambda: Simplex().check_experts(1), "nothing to learn"),
    ],
)
def test_bad_sets_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_one_expert_beside_the_base_is_enough():
    Simplex(includes_base=True).check_experts(1)
    Box().check_experts(1)
