import re

import pytest
from torch import nn, ones, optim, tensor

from adamerge.optim import Circumstance, OptimizerKind, check_circumstance, check_pair, keep_feasible
from adamerge.optim.feasible_sets import Box, Simplex, Unbounded
from adamerge.types import ConfigError

HARD, SOFT, LBFGSB = OptimizerKind.FRANK_WOLFE_HARD, OptimizerKind.FRANK_WOLFE_SOFT, OptimizerKind.LBFGSB
COSINE, TORCH, LBFGS = OptimizerKind.FRANK_WOLFE_COSINE, OptimizerKind.TORCH, OptimizerKind.TORCH_LBFGS
REFUSED = {
    (COSINE, Unbounded), (COSINE, Box), (HARD, Unbounded), (SOFT, Unbounded), (SOFT, Box),
    (LBFGSB, Simplex), (LBFGS, Simplex), (LBFGS, Box),
}  # fmt: skip


@pytest.mark.parametrize("feasible", [Unbounded(), Box(), Simplex(), Simplex(includes_base=True)], ids=str)
@pytest.mark.parametrize("kind", OptimizerKind)
def test_the_table_refuses_what_is_not_defined(kind, feasible):
    if (kind, type(feasible)) not in REFUSED:
        check_pair(kind, feasible)
        return
    with pytest.raises(ConfigError, match=f"{type(feasible).__name__}.* is not defined: "):
        check_pair(kind, feasible)


@pytest.mark.parametrize("circumstance", Circumstance)
@pytest.mark.parametrize("kind", OptimizerKind)
def test_what_learning_comes_with_may_rule_an_optimiser_out(kind, circumstance):
    feasible = {LBFGSB: Box(), LBFGS: Unbounded()}.get(kind, Simplex())
    check_pair(kind, feasible)
    only_on_fixed_rows = circumstance is Circumstance.MINI_BATCHES
    takes_a_rate = circumstance is Circumstance.IDLE_SCHEDULER
    may_be_shared = circumstance is Circumstance.SEVERAL_PROCESSES and kind is not OptimizerKind.FRANK_WOLFE_COSINE
    if (
        kind is TORCH
        or may_be_shared
        or (only_on_fixed_rows and kind not in (LBFGSB, LBFGS))
        or (takes_a_rate and kind is LBFGS)
    ):
        check_circumstance(kind, circumstance)
        return
    with pytest.raises(ConfigError, match=f"{re.escape(kind)} with {circumstance} is not defined: "):
        check_circumstance(kind, circumstance)


@pytest.mark.parametrize("feasible", [Box(upper=0.5), Simplex(), Simplex(includes_base=True)], ids=str)
def test_adam_is_kept_feasible(feasible):
    coefficients = nn.Parameter(ones(3, 4))
    optimizer = optim.Adam([coefficients], lr=0.1)
    handle = keep_feasible(optimizer, feasible)
    free = nn.Parameter(ones(3, 4))
    reference = optim.Adam([free], lr=0.1)
    for weights in (tensor([3.0, -1.0, 0.5, 1.0]), tensor([-2.0, 1.0, 1.0, -3.0])):
        for parameter, stepped in ((coefficients, optimizer), (free, reference)):
            stepped.zero_grad()
            (parameter * weights).sum().backward()
            stepped.step()
        free.data.copy_(feasible.project(free.data))
        assert feasible.contains(coefficients.detach())
        assert coefficients.equal(free)
    handle.remove()
    optimizer.param_groups[0]["lr"] = 10.0
    (coefficients * -1.0).sum().backward()
    optimizer.step()
    assert not feasible.contains(coefficients.detach())


@pytest.mark.parametrize(
    ("shape", "feasible", "message"),
    [((3,), Box(), r"shape \(G, K\)"), ((3, 1), Simplex(), "nothing to learn")],
)
def test_keeping_feasible_checks_the_coefficients(shape, feasible, message):
    with pytest.raises(ConfigError, match=message):
        keep_feasible(optim.SGD([nn.Parameter(ones(shape))], lr=1.0), feasible)
