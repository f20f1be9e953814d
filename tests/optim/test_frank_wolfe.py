import math
from dataclasses import replace

import pytest
import torch
from support.quadratics import EXPERTS, closure_of, quadratic, resumed_and_not, same  # pyright: ignore[reportImplicitRelativeImport]
from torch import nn

from adamerge.optim import FrankWolfe, SoftFrankWolfe
from adamerge.optim.feasible_sets import Box, Simplex, Unbounded
from adamerge.types import ConfigError

SIMPLEXES = [Simplex(2.4), Simplex(2.4, includes_base=True)]
SETS = [*SIMPLEXES, Box(-0.2, 0.4)]
LINEAR = [
    FrankWolfe("armijo", "away"),
    FrankWolfe("armijo", "pairwise"),
    FrankWolfe("short_step", "away"),
    FrankWolfe("short_step", "pairwise"),
    FrankWolfe("short_step", "away", curvature=6.5),
    FrankWolfe("short_step", "pairwise", curvature=6.5),
]


def run(problem, feasible, steps, count, tolerance=0.0):
    """Optimise, checking each iterate; losses after each step, the coefficients, the optimiser."""
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = replace(steps, tolerance=tolerance).build([coefficients], feasible)
    rounding = 50 * torch.finfo(coefficients.dtype).eps
    losses = []
    for _ in range(count):
        optimizer.step(closure_of(problem, coefficients))
        assert feasible.contains(coefficients.detach(), rounding)
        assert optimizer.gap >= 0
        losses.append(problem.loss(coefficients.detach()).item())
        if optimizer.converged:
            break
    return losses, coefficients.detach(), optimizer


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("feasible", SETS, ids=str)
@pytest.mark.parametrize("steps", LINEAR, ids=str)
def test_away_and_pairwise_reach_the_minimiser_on_a_face(steps, feasible, groups):
    problem = quadratic(feasible, groups)
    assert steps.curvature is None or problem.curvature < steps.curvature
    losses, found, optimizer = run(problem, feasible, steps, 1000, tolerance=5e-7)
    assert optimizer.converged
    assert optimizer.gap < 1e-6
    # Convex: the gap bounds the distance of the loss from its minimum.
    assert -1e-12 < losses[-1] - problem.minimum <= optimizer.gap
    torch.testing.assert_close(found, problem.minimiser, atol=1e-3, rtol=0.0)
    # Coefficients that are at a bound are dropped, not merely small.
    if isinstance(feasible, Simplex) and steps.variant == "pairwise":
        assert torch.equal(found > 0, problem.minimiser > 0)


@pytest.mark.parametrize("feasible", SETS, ids=str)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    "steps", [FrankWolfe("armijo", "plain"), FrankWolfe("short_step", "plain"), FrankWolfe("classic", "plain")], ids=str
)
def test_plain_obeys_the_sublinear_bound(steps, groups, feasible):
    problem = quadratic(feasible, groups)
    width = feasible.radius * math.sqrt(2) if isinstance(feasible, Simplex) else feasible.upper - feasible.lower
    rows = groups if isinstance(feasible, Simplex) else groups * EXPERTS
    diameter = rows * width**2
    losses, _, _ = run(problem, feasible, steps, 120)
    assert losses[0] - problem.minimum > 1e-3
    for step, loss in enumerate(losses, start=1):
        assert loss - problem.minimum <= 2.0 * problem.curvature * diameter / (step + 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("variant", ["plain", "away", "pairwise"])
def test_line_search_decreases_as_much_as_the_exact_one(variant, seed):
    """Direction and step from their definitions; FrankWolfe must reach 99 % of that decrease (FLAT²)."""
    feasible = Simplex(2.4)
    problem = quadratic(feasible, seed=seed)
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = FrankWolfe("armijo", variant, tolerance=0.0).build([coefficients], feasible)
    for _ in range(20):
        at = coefficients.detach().clone()
        gradient = problem.gradient(at)
        best, weights = int(gradient[0].argmin()), at[0] / 2.4
        worst = max(at[0].nonzero()[:, 0].tolist(), key=lambda k, gradient=gradient: gradient[0, k].item())
        corner, leaving = torch.zeros_like(at), torch.zeros_like(at)
        corner[0, best], leaving[0, worst] = 2.4, 2.4
        towards = (gradient * (at - corner)).sum() >= (gradient * (leaving - at)).sum()
        if variant == "plain" or (variant == "away" and towards):
            direction, limit = corner - at, 1.0
        elif variant == "away":
            direction, limit = at - leaving, (weights[worst] / (1 - weights[worst])).item()
        else:
            direction, limit = corner - leaving, weights[worst].item()
        bend = torch.einsum("gk,gkj,gj->", direction, problem.matrices, direction)
        best_size = (-(gradient * direction).sum() / bend).clamp(0.0, limit)
        optimizer.step(closure_of(problem, coefficients))
        before, after = problem.loss(at).item(), problem.loss(coefficients.detach()).item()
        assert before - after >= 0.99 * (before - problem.loss(at + best_size * direction).item()) - 1e-10
        # And it moved along that direction, not elsewhere.
        moved = coefficients.detach() - at
        size = (moved * direction).sum() / direction.square().sum()
        torch.testing.assert_close(moved, size * direction, atol=1e-9, rtol=0.0)


def test_classic_steps_are_two_over_t_plus_two():
    feasible = Simplex(2.4, includes_base=True)
    problem = quadratic(feasible, groups=2)
    expected = problem.start.clone()
    for step in range(6):
        expected = expected + 2.0 / (step + 2.0) * (feasible.vertex(problem.gradient(expected)) - expected)
    _, found, optimizer = run(problem, feasible, FrankWolfe("classic", "plain"), 6)
    torch.testing.assert_close(found, expected)
    assert optimizer.evaluations == 6


def test_the_constant_step_is_the_learning_rate():
    feasible = Box()
    problem = quadratic(feasible)
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = FrankWolfe("constant", "plain", size=0.5).build([coefficients], feasible)
    optimizer.param_groups[0]["lr"] = 0.25  # as a scheduler does
    optimizer.step(closure_of(problem, coefficients))
    expected = 0.75 * problem.start + 0.25 * feasible.vertex(problem.gradient(problem.start))
    torch.testing.assert_close(coefficients.detach(), expected)


@pytest.mark.parametrize("feasible", SIMPLEXES, ids=str)
@pytest.mark.parametrize("groups", [1, 3])
def test_soft_reaches_the_minimiser(feasible, groups):
    problem = quadratic(feasible, groups)
    losses, found, optimizer = run(problem, feasible, SoftFrankWolfe(top_k=2, inner_steps=40), 60, tolerance=1e-7)
    assert optimizer.gap < 1e-6
    assert losses[-1] - problem.minimum <= optimizer.gap
    torch.testing.assert_close(found, problem.minimiser, atol=1e-3, rtol=0.0)


def test_soft_stays_on_the_vertices_it_may_use():
    feasible = Simplex()
    problem = quadratic(feasible)
    best = problem.gradient(problem.start).topk(2, largest=False).indices[0].tolist()
    _, found, _ = run(problem, feasible, SoftFrankWolfe(top_k=2, inner_steps=200), 1, tolerance=1e-9)
    used = sorted({*best, EXPERTS - 1})
    assert set(found[0].nonzero()[:, 0].tolist()) <= set(used)
    # The minimum over that face, by brute force: no exchange within the face decreases the loss.
    slopes = problem.gradient(found)[0, used]
    active = found[0, used] > 0
    assert (slopes[active].max() - slopes.min()).item() < 1e-6


@pytest.mark.parametrize("steps", [*LINEAR, SoftFrankWolfe(2, 20)], ids=str)
def test_single_precision_comes_near_and_stays_feasible(steps):
    feasible = Simplex(2.4, includes_base=True)
    problem = quadratic(feasible, groups=3).to(torch.float32)
    losses, _, optimizer = run(problem, feasible, steps, 600, tolerance=2e-5)
    assert optimizer.converged
    assert losses[-1] - problem.minimum < 2.1e-5
    # Noise must not make every step a search of twenty evaluations.
    assert optimizer.evaluations < 3 * 600


def test_curvature_is_remembered():
    """On a loss that bends the same everywhere, the first search measures it and the next ones need no search."""
    bend, radius = 5.0, 2.4
    feasible = Simplex(radius)
    other = quadratic(feasible)
    problem = replace(other, matrices=bend * torch.eye(EXPERTS, dtype=torch.float64)[None], centre=other.minimiser)
    _, _, armijo = run(problem, feasible, FrankWolfe("armijo", "plain"), 8)
    assert armijo.evaluations <= 3 + 2 * 7
    assert armijo.state_dict()["state"]["frank_wolfe"]["inverse_curvature"] == pytest.approx(1 / bend)
    _, _, soft = run(problem, feasible, SoftFrankWolfe(top_k=2, inner_steps=5), 2)
    assert soft.state_dict()["state"]["frank_wolfe"]["inner_step_size"] == pytest.approx(1 / (bend * radius**2))
    _, _, short = run(other, feasible, FrankWolfe("short_step", "pairwise"), 60)
    assert short.evaluations <= 2.3 * 60


def test_gap_is_that_of_the_set():
    feasible = Simplex(2.4, includes_base=True)
    problem = quadratic(feasible, groups=3)
    _, _, optimizer = run(problem, feasible, FrankWolfe(), 1)
    truth = feasible.gap(problem.start, problem.gradient(problem.start)).item()
    assert optimizer.gap == pytest.approx(truth, rel=1e-12)


def test_a_converged_optimiser_rests():
    feasible = Simplex()
    problem = quadratic(feasible)
    _, _, optimizer = run(problem, feasible, FrankWolfe(), 500, tolerance=1e-6)
    coefficients = optimizer.param_groups[0]["params"][0]
    before, evaluations = coefficients.detach().clone(), optimizer.evaluations
    assert optimizer.converged
    optimizer.step(closure_of(problem, coefficients))
    assert torch.equal(coefficients.detach(), before)
    assert optimizer.evaluations == evaluations + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "steps", [*LINEAR, FrankWolfe("classic", "plain"), FrankWolfe("constant", "plain"), SoftFrankWolfe(2, 3)], ids=str
)
def test_resumes_bit_identically(steps, dtype):
    feasible = Simplex(2.4, includes_base=True)
    problem = quadratic(feasible, groups=2).to(dtype)
    (whole, unbroken), (part, resumed) = resumed_and_not(problem, lambda c: steps.build([c], feasible))
    assert torch.equal(whole, part)
    assert not torch.equal(whole, problem.start)
    assert same(unbroken.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrankWolfe().build([nn.Parameter(torch.ones(1, 1))], Simplex()), "nothing to learn"),
        (lambda: FrankWolfe().build([nn.Parameter(torch.ones(1, 1))], Unbounded()), "no vertex"),
        (lambda: SoftFrankWolfe(3).build([nn.Parameter(torch.full((1, 2), 0.5))], Simplex()), "exceeds the pool of 2"),
        (lambda: SoftFrankWolfe(1).build([nn.Parameter(torch.full((1, 2), 0.5))], Box()), "no k best"),
        (lambda: FrankWolfe().build([nn.Parameter(torch.full((1, 2), 0.6))], Simplex()), "start outside"),
        (lambda: FrankWolfe().build([nn.Parameter(torch.ones(2))], Simplex()), r"shape \(G, K\)"),
        (lambda: FrankWolfe(tolerance=-1.0), "tolerance"),
        (lambda: FrankWolfe("classic", "pairwise"), "evaluates the loss"),
        (lambda: FrankWolfe("armijo", curvature=1.0), "short step only"),
        (lambda: FrankWolfe("short_step", curvature=0.0), "above 0"),
        (lambda: FrankWolfe("constant", "plain", size=0.0), "step size"),
        (lambda: FrankWolfe("armijo", "plain", selection="sine"), "selection"),  # pyright: ignore
        (lambda: FrankWolfe(selection="cosine"), "plain steps only"),
        (lambda: SoftFrankWolfe(per="tensor"), "per: expected group or model"),  # pyright: ignore
        (lambda: FrankWolfe("newton"), "step_rule"),  # pyright: ignore
        (lambda: FrankWolfe(variant="toward"), "variant"),  # pyright: ignore
        (lambda: SoftFrankWolfe(top_k=0), "top_k"),
        (lambda: SoftFrankWolfe(inner_steps=0), "inner_steps"),
    ],
)
def test_bad_choices_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_step_needs_a_closure_that_works():
    coefficients = nn.Parameter(torch.full((1, 2), 0.5))
    optimizer = FrankWolfe().build([coefficients], Simplex())
    with pytest.raises(ConfigError, match=r"step\(closure\)"):
        optimizer.step()
    with pytest.raises(ConfigError, match=r"backward\(\)"):
        optimizer.step(lambda: coefficients.sum())

    def overflow():
        loss = coefficients.sum() * math.nan
        loss.backward()
        return loss

    with pytest.raises(FloatingPointError, match="overflow"):
        optimizer.step(overflow)
