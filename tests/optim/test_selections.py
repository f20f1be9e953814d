"""Which vertices Frank-Wolfe selected, when, and with what weight; by linear scores or by cosines."""

import math

import pytest
import torch
from torch import nn

from adamerge.optim import FrankWolfe, Selection
from adamerge.optim.feasible_sets import Box, Simplex
from adamerge.types import ConfigError


def test_selections_say_what_when_and_how_much():
    feasible = Simplex(2.0, includes_base=True)
    coefficients = nn.Parameter(torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64))
    target = torch.tensor([[1.5, 0.0], [-1.0, -1.0]], dtype=torch.float64)  # outside of the set in the second group
    optimizer = FrankWolfe("armijo", "pairwise", tolerance=1e-12).build([coefficients], feasible)
    assert optimizer.selections() == []
    assert optimizer.gap == math.inf
    assert not optimizer.converged

    def closure():
        coefficients.grad = None
        loss = (coefficients - target).square().sum()
        loss.backward()
        return loss

    for _ in range(50):
        optimizer.step(closure)
    torch.testing.assert_close(coefficients.detach(), target.clamp(min=0.0), atol=1e-6, rtol=0.0)
    selections = optimizer.selections()
    first = selections[0]
    assert (first.group, first.expert, first.first_step) == (0, 0, 0)
    assert first.weight == pytest.approx(0.75, abs=1e-6)
    [base] = [selection for selection in selections if selection.group == 1 and selection.expert is None]
    assert base.first_step == 0
    assert base.weight == pytest.approx(1.0, abs=1e-6)
    assert all(selection.times >= 1 for selection in selections)


def test_selections_on_a_box_are_upper_ends():
    coefficients = nn.Parameter(torch.full((2, 2), 0.5))
    optimizer = FrankWolfe("constant", "plain", size=1.0).build([coefficients], Box())

    def closure():
        coefficients.grad = None
        loss = (coefficients * torch.tensor([[1.0, -1.0], [1.0, 1.0]])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.selections() == [Selection(group=0, expert=1, first_step=0, times=1, weight=1.0)]


def _backward(loss):
    loss.backward()
    return loss


def test_cosines_select_where_they_are_asked_for():
    """The least cosine is selected, against the linear score; a step that would only raise the loss is not taken."""
    feasible = Simplex(includes_base=True)
    coefficients = nn.Parameter(torch.tensor([[0.5, 0.5]]))
    published = FrankWolfe("constant", "plain", size=0.5, selection="cosine")
    optimizer = published.build([coefficients], feasible, lambda: torch.tensor([[0.1, -0.1, 0.0]]))
    optimizer.step(lambda: _backward((coefficients * torch.tensor([[-1.0, 1.0]])).sum()))
    torch.testing.assert_close(coefficients.detach(), torch.tensor([[0.25, 0.75]]))
    assert [selection.expert for selection in optimizer.selections()] == [1]
    careful = nn.Parameter(torch.tensor([[0.5, 0.5]]))
    optimizer = FrankWolfe("armijo", "plain", selection="cosine").build([careful], feasible, lambda: torch.eye(3)[1:2])
    optimizer.step(lambda: _backward((careful * torch.tensor([[1.0, 3.0]])).sum()))
    assert torch.equal(careful.detach(), torch.tensor([[1.0, 0.0]]))  # 0 is less than 1, and a descent
    optimizer.step(lambda: _backward((careful * torch.tensor([[3.0, 1.0]])).sum()))
    assert torch.equal(careful.detach(), torch.tensor([[1.0, 0.0]]))
    assert optimizer.done
    with pytest.raises(ConfigError, match="the experts themselves"):
        FrankWolfe("armijo", "plain", selection="cosine").build([careful], feasible).step(
            lambda: _backward((careful * torch.tensor([[1.0, 3.0]])).sum())
        )
