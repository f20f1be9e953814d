import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
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


def constraints_of(feasible, experts=EXPERTS):
    """Bounds and sum constraint of one row, in SciPy's terms."""
    if isinstance(feasible, Box):
        return [(feasible.lower, feasible.upper)] * experts, None
    lowest = -np.inf if feasible.includes_base else feasible.radius
    return [(0.0, None)] * experts, LinearConstraint(np.ones((1, experts)), lowest, feasible.radius)


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


BOUNDS = st.floats(-10, 10)
BY_KIND: dict[str, st.SearchStrategy[FeasibleSet]] = {
    "box": st.builds(lambda lower, width: Box(lower, lower + width), BOUNDS, st.floats(0.1, 10)),
    "simplex": st.builds(Simplex, st.floats(0.1, 10)),
    "simplex with base": st.builds(Simplex, st.floats(0.1, 10), st.just(True)),
    "unbounded": st.just(Unbounded()),
}
COMPACT_KINDS = [kind for kind in BY_KIND if kind != "unbounded"]


def tables(low, high):
    """One to three rows of two to seven numbers."""
    return st.tuples(st.integers(1, 3), st.integers(2, 7)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.floats(low, high)).map(torch.from_numpy)
    )


def points_of(feasible, shape, random):
    """Points of the set by its definition, without a projection."""
    if isinstance(feasible, Simplex):
        weights = random.dirichlet([0.5] * (shape[1] + feasible.includes_base), shape[0])  # (G, K or K + 1)
        return feasible.radius * torch.from_numpy(weights[:, : shape[1]])
    low, high = (feasible.lower, feasible.upper) if isinstance(feasible, Box) else (-1e3, 1e3)
    return torch.from_numpy(random.uniform(low, high, shape))


@pytest.mark.parametrize("kind", BY_KIND)
@given(data=st.data())
def test_projection_is_the_nearest_point(kind, data):
    """p is nearest to c exactly where ⟨c - p, x - p⟩ ≤ 0 for every x of the convex set."""
    feasible, point = data.draw(BY_KIND[kind]), data.draw(tables(-1e3, 1e3))
    near = feasible.project(point)
    rounding = 1e-12 * max(1.0, point.abs().max().item())
    assert feasible.contains(near, rounding)
    torch.testing.assert_close(feasible.project(near), near, atol=rounding, rtol=0.0)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for other in [points_of(feasible, point.shape, random) for _ in range(10)]:
        torch.testing.assert_close(feasible.project(other), other, atol=rounding, rtol=0.0)
        obtuse = ((point - near) * (other - near)).sum(dim=1)
        assert (obtuse <= 1e3 * rounding).all()


def program(feasible, gradient):
    """The linear program of one row, solved: its point x and the least linear loss fun."""
    bounds, total = constraints_of(feasible, len(gradient))
    rows = () if total is None else (total.A, [feasible.radius])
    key = ("A_ub", "b_ub") if isinstance(feasible, Simplex) and feasible.includes_base else ("A_eq", "b_eq")
    truth = linprog(gradient, bounds=bounds, **dict(zip(key, rows, strict=False)))
    assert truth.success
    return truth


@pytest.mark.parametrize("kind", COMPACT_KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_vertex_and_gap_are_those_of_a_linear_program(kind, data):
    feasible, point = data.draw(BY_KIND[kind]), data.draw(tables(-10, 10))
    eighths = st.integers(-80, 80).map(lambda number: number / 8)  # ties and zeros are common
    gradient = torch.from_numpy(data.draw(arrays(np.float64, point.shape, elements=eighths)))
    vertex, near = feasible.vertex(gradient), feasible.project(point)
    assert feasible.contains(vertex, 1e-12)
    losses = (gradient * vertex).sum(dim=1)
    expected = [program(feasible, row).fun for row in gradient.numpy()]
    np.testing.assert_allclose(losses, expected, rtol=1e-9, atol=1e-9)
    gap = feasible.gap(near, gradient).item()
    assert gap >= -1e-10
    assert gap == pytest.approx((gradient * near).sum().item() - sum(expected), abs=1e-8)


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
def test_vertex_agrees_with_linprog(feasible):
    gradients = torch.cat([rows(2), rows(2).abs(), -rows(2).abs()])
    for gradient, vertex in zip(gradients.numpy(), feasible.vertex(gradients).numpy(), strict=True):
        np.testing.assert_allclose(vertex, program(feasible, gradient).x, atol=1e-9)


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
        (lambda: Box(-2e6, 1.0), "at most 1e\\+06"),
        (lambda: Box(0.0, 2e6), "at most 1e\\+06"),
        (lambda: Simplex(2e6), "at most 1e\\+06"),
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
