import numpy as np
import pytest
import torch
from scipy.optimize import OptimizeResult, minimize, rosen, rosen_der
from support.quadratics import closure_of, quadratic, resumed_and_not, same  # pyright: ignore[reportImplicitRelativeImport]
from torch import nn

from adamerge.optim import LBFGSB
from adamerge.optim.feasible_sets import Box, Simplex, Unbounded
from adamerge.types import ConfigError

SETS = [Unbounded(), Box(), Box(-0.2, 0.4)]


def bounds_of(feasible, unknowns):
    return [(feasible.lower, feasible.upper)] * unknowns if isinstance(feasible, Box) else None


def rosenbrock_closure(coefficients):
    def closure():
        x = coefficients.reshape(-1)
        coefficients.grad = None
        loss = (100.0 * (x[1:] - x[:-1].square()).square() + (1.0 - x[:-1]).square()).sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("feasible", [Unbounded(), Box(-2.0, 0.8)], ids=str)
def test_iterates_are_those_of_scipy(feasible):
    """Every step ends where SciPy ends with that many iterations, on a loss that needs many of them."""
    start = torch.tensor([[-1.2, 0.7, -0.5], [0.1, 0.3, 0.5]], dtype=torch.float64)
    coefficients = nn.Parameter(start.clone())
    optimizer = LBFGSB(loss_tolerance=1e-12, gradient_tolerance=1e-8).build([coefficients], feasible)
    tolerances = {"ftol": 1e-12, "gtol": 1e-8}
    iterations, truth = 0, OptimizeResult()
    while not optimizer.converged and iterations < 200:
        iterations += 1
        optimizer.step(rosenbrock_closure(coefficients))
        truth = minimize(
            rosen,
            start.reshape(-1).numpy(),
            jac=rosen_der,
            method="L-BFGS-B",
            bounds=bounds_of(feasible, 6),
            options={"maxiter": iterations, **tolerances},
        )
        np.testing.assert_allclose(coefficients.detach().reshape(-1).numpy(), truth.x, atol=1e-5)
        assert feasible.contains(coefficients.detach(), 0.0)
        assert optimizer.converged == truth.success
    assert optimizer.converged
    assert iterations > 15
    # The replay costs nothing: as many evaluations as one uninterrupted run, and the one that says it is over.
    assert truth.nfev - 2 <= optimizer.evaluations <= truth.nfev + 3


@pytest.mark.parametrize("feasible", SETS, ids=str)
@pytest.mark.parametrize(("dtype", "excess"), [(torch.float64, 1e-12), (torch.float32, 5e-5)])
def test_reaches_the_minimum(feasible, dtype, excess):
    exact = quadratic(feasible, groups=3)
    problem = exact.to(dtype)
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = LBFGSB().build([coefficients], feasible)
    for _ in range(100):
        optimizer.step(closure_of(problem, coefficients))
        if optimizer.done:
            break
    assert optimizer.done
    assert exact.loss(coefficients.detach().double()).item() - exact.minimum < excess
    assert optimizer.evaluations < 100


def test_a_converged_optimiser_rests_but_calls_its_closure():
    problem = quadratic(Box())
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = LBFGSB().build([coefficients], Box())
    while not optimizer.converged:
        optimizer.step(closure_of(problem, coefficients))
    before, evaluations = coefficients.detach().clone(), optimizer.evaluations
    loss = optimizer.step(closure_of(problem, coefficients))
    assert loss == pytest.approx(problem.loss(before).item())
    assert torch.equal(coefficients.detach(), before)
    assert optimizer.evaluations == evaluations + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("feasible", SETS, ids=str)
def test_resumes_bit_identically(feasible, dtype):
    problem = quadratic(feasible, groups=2).to(dtype)
    (whole, unbroken), (part, resumed) = resumed_and_not(
        problem, lambda c: LBFGSB().build([c], feasible), before=3, after=3
    )
    assert torch.equal(whole, part)
    assert not torch.equal(whole, problem.start)
    assert same(unbroken.state_dict(), resumed.state_dict())
    assert resumed.evaluations < 15


def test_a_log_that_does_not_fit_is_evaluated_afresh():
    problem = quadratic(Box())
    coefficients, other = nn.Parameter(problem.start.clone()), nn.Parameter(problem.start.clone())
    optimizer, untouched = LBFGSB().build([coefficients], Box()), LBFGSB().build([other], Box())
    for _ in range(3):
        optimizer.step(closure_of(problem, coefficients))
        untouched.step(closure_of(problem, other))
    state = optimizer.state_dict()
    state["state"]["lbfgsb"]["points"][2] += 1e-9
    optimizer.load_state_dict(state)
    optimizer.step(closure_of(problem, coefficients))
    untouched.step(closure_of(problem, other))
    assert torch.equal(coefficients, other)
    assert optimizer.evaluations > untouched.evaluations


def test_coefficients_moved_by_others_start_a_new_descent():
    problem = quadratic(Box())
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = LBFGSB().build([coefficients], Box())
    for _ in range(3):
        optimizer.step(closure_of(problem, coefficients))
    with torch.no_grad():
        coefficients.fill_(0.5)
    fresh = nn.Parameter(torch.full_like(problem.start, 0.5))
    for mine, moved in ((optimizer, coefficients), (LBFGSB().build([fresh], Box()), fresh)):
        mine.step(closure_of(problem, moved))
    assert torch.equal(coefficients, fresh)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: LBFGSB().build([c], Simplex(2.0)), "bounds on single coefficients"),
        (lambda c: LBFGSB().build([c], Box(upper=0.5)), "start outside"),
        (lambda c: LBFGSB(history=0), "history"),
        (lambda c: LBFGSB(loss_tolerance=-1.0), "tolerances"),
        (lambda c: LBFGSB().build([c], Box()).step(), r"step\(closure\)"),
    ],
)
def test_bad_choices_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make(nn.Parameter(torch.ones(1, 2)))
