import math

import pytest
import torch
from support.quadratics import closure_of, quadratic, resumed_and_not, same  # pyright: ignore[reportImplicitRelativeImport]
from torch import nn

from adamerge.optim import ProjectedGradient
from adamerge.optim.feasible_sets import Box, Simplex, Unbounded
from adamerge.types import ConfigError

SETS = [Unbounded(), Box(), Box(-0.2, 0.4), Simplex(2.4), Simplex(2.4, includes_base=True)]


@pytest.mark.parametrize("step_rule", ["armijo", "constant"])
@pytest.mark.parametrize("feasible", SETS, ids=str)
def test_reaches_the_minimiser_and_stays_feasible(feasible, step_rule):
    problem = quadratic(feasible, groups=3)
    coefficients = nn.Parameter(problem.start.clone())
    lr = 1.0 / problem.curvature if step_rule == "constant" else 1.0
    optimizer = ProjectedGradient(lr, step_rule, tolerance=1e-7).build([coefficients], feasible)
    assert optimizer.residual == math.inf
    last = problem.loss(problem.start).item()
    for _ in range(1000):
        optimizer.step(closure_of(problem, coefficients))
        loss = problem.loss(coefficients.detach()).item()
        assert loss <= last + 1e-12
        assert feasible.contains(coefficients.detach(), 1e-14)
        last = loss
        if optimizer.converged:
            break
    assert optimizer.converged
    torch.testing.assert_close(coefficients.detach(), problem.minimiser, atol=1e-6, rtol=0.0)


def test_armijo_accepts_by_bertsekas_condition():
    feasible = Box()
    problem = quadratic(feasible)
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = ProjectedGradient(1e3, shrink=0.5, grow=2.0, sufficient=0.4).build([coefficients], feasible)
    start, gradient = problem.start, problem.gradient(problem.start)
    optimizer.step(closure_of(problem, coefficients))

    def enough(size):
        end = feasible.project(start - size * gradient)
        return problem.loss(end) <= problem.loss(start) + 0.4 * (gradient * (end - start)).sum()

    size = optimizer.step_size
    torch.testing.assert_close(coefficients.detach(), feasible.project(start - size * gradient))
    assert enough(size)
    assert not enough(2.0 * size)  # the one before was refused
    # Remembered, and grown at the next step: only a factor of two above the last one is tried.
    evaluations = optimizer.evaluations
    optimizer.step(closure_of(problem, coefficients))
    assert optimizer.step_size <= 2.0 * size
    assert optimizer.evaluations <= evaluations + 4


def test_constant_step_is_one_evaluation_and_follows_the_scheduler():
    problem = quadratic(Box())
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = ProjectedGradient(0.1, "constant").build([coefficients], Box())
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.step(closure_of(problem, coefficients))
    expected = Box().project(problem.start - 0.05 * problem.gradient(problem.start))
    assert torch.equal(coefficients.detach(), expected)
    assert optimizer.evaluations == 1


def test_steps_back_from_a_loss_that_is_not_a_number():
    coefficients = nn.Parameter(torch.tensor([[0.5, 0.5]]))
    optimizer = ProjectedGradient(1e3).build([coefficients], Unbounded())

    def closure():
        coefficients.grad = None
        loss = -coefficients.log().sum() + coefficients.square().sum()
        loss.backward()
        return loss

    for _ in range(60):
        optimizer.step(closure)
    torch.testing.assert_close(coefficients.detach(), torch.full((1, 2), math.sqrt(0.5)), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step_rule", ["armijo", "constant"])
def test_resumes_bit_identically(step_rule, dtype):
    feasible = Simplex(2.4, includes_base=True)
    problem = quadratic(feasible, groups=2).to(dtype)
    (whole, unbroken), (part, resumed) = resumed_and_not(
        problem, lambda c: ProjectedGradient(0.02, step_rule).build([c], feasible)
    )
    assert torch.equal(whole, part)
    assert not torch.equal(whole, problem.start)
    assert same(unbroken.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: ProjectedGradient(lr=0.0), "lr"),
        (lambda c: ProjectedGradient(lr=math.nan), "lr"),
        (lambda c: ProjectedGradient(step_rule="wolfe"), "step_rule"),  # pyright: ignore[reportArgumentType]
        (lambda c: ProjectedGradient(grow=0.9), "grow"),
        (lambda c: ProjectedGradient(shrink=1.0), "shrink"),
        (lambda c: ProjectedGradient(sufficient=1.0), "sufficient"),
        (lambda c: ProjectedGradient(tolerance=-1.0), "tolerance"),
        (lambda c: ProjectedGradient().build(c, Simplex()), "start outside"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make([nn.Parameter(torch.ones(1, 2))])


def test_one_table_of_coefficients_is_expected():
    with pytest.raises(ConfigError, match=r"shape \(G, K\)"):
        ProjectedGradient().build([nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1, 2))], Box())
