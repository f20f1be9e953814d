from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import pytest
import torch
from support.quadratics import closure_of, quadratic  # pyright: ignore[reportImplicitRelativeImport]
from torch import nn

from adamerge.optim import FrankWolfe
from adamerge.optim import processes as together
from adamerge.optim.closure import Objective
from adamerge.optim.feasible_sets import Simplex
from adamerge.optim.processes import mean_over_processes

STEPS = 6


class TwoProcesses:
    """Stands in for torch.distributed: two threads that add up what they hold."""

    ReduceOp = torch.distributed.ReduceOp

    def __init__(self):
        self.rank = local()
        self.barrier = Barrier(2, timeout=20)
        self.held = [torch.empty(0), torch.empty(0)]

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def get_rank(self):
        return self.rank.value

    def get_world_size(self):
        return 2

    def all_reduce(self, value, how):
        assert how == self.ReduceOp.SUM
        self.held[self.rank.value] = value.clone()
        self.barrier.wait()
        total = self.held[0] + self.held[1]
        self.barrier.wait()
        value.copy_(total)


def descend(problem):
    coefficients = nn.Parameter(problem.start.clone())
    optimizer = FrankWolfe().build([coefficients], Simplex())
    for _ in range(STEPS):
        optimizer.step(closure_of(problem, coefficients))
    return coefficients.detach(), optimizer.gap


def test_processes_with_different_rows_take_the_same_decisions(monkeypatch):
    """Two processes, each with a loss of its own, descend as one process does on the average of the losses."""
    problems = [quadratic(Simplex(), groups=2, seed=seed) for seed in (0, 1)]
    alone, _ = descend(problems[0])
    coefficients = nn.Parameter(problems[0].start.clone())
    optimizer = FrankWolfe().build([coefficients], Simplex())

    def average():
        coefficients.grad = None
        loss = (problems[0].loss(coefficients) + problems[1].loss(coefficients)) / 2
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(average)

    processes = TwoProcesses()
    monkeypatch.setattr(together, "distributed", processes)

    def descend_on(rank):
        processes.rank.value = rank
        return descend(problems[rank])

    with ThreadPoolExecutor(2) as pool:
        (first, first_gap), (second, second_gap) = pool.map(descend_on, (0, 1))
    assert torch.equal(first, second)
    assert first_gap == second_gap
    torch.testing.assert_close(first, coefficients.detach(), atol=1e-7, rtol=0.0)
    assert first_gap == pytest.approx(optimizer.gap, rel=1e-4)
    assert (alone - first).abs().max() > 1e-2


def test_the_value_itself_is_not_touched(monkeypatch):
    processes = TwoProcesses()
    monkeypatch.setattr(together, "distributed", processes)
    values = torch.tensor([[1.0, 2.0], [3.0, 6.0]])

    def mean_on(rank):
        processes.rank.value = rank
        return mean_over_processes(values[rank])

    with ThreadPoolExecutor(2) as pool:
        means = list(pool.map(mean_on, (0, 1)))
    assert torch.equal(means[0], torch.tensor([2.0, 4.0]))
    assert torch.equal(means[1], means[0])
    assert torch.equal(values, torch.tensor([[1.0, 2.0], [3.0, 6.0]]))


def test_an_evaluation_outlives_the_next_one():
    coefficients = nn.Parameter(torch.tensor([[1.0, 2.0]]))

    def zeroing_in_place():
        if coefficients.grad is not None:
            coefficients.grad.zero_()
        loss = coefficients.square().sum()
        loss.backward()
        return loss

    objective = Objective(coefficients, zeroing_in_place)
    with torch.no_grad():  # as an optimiser's step may be called
        first = objective.start()
        second = objective.at(torch.tensor([[3.0, 4.0]]))
    assert (first.loss, second.loss) == (5.0, 25.0)
    assert torch.equal(first.gradient, torch.tensor([[2.0, 4.0]]))
    assert torch.equal(first.coefficients, torch.tensor([[1.0, 2.0]]))
    assert torch.equal(second.gradient, torch.tensor([[6.0, 8.0]]))
    assert objective.evaluations == 2
