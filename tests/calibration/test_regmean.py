"""RegMean where a layer sees fewer positions than it is wide: the directions that no row shows keep the mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adamerge.calibration.calibrated_merge import kept_merge
from adamerge.calibration.gram_matrices import grams_of_experts
from adamerge.calibration.regmean import RIDGE, SOLVES, RegMean, damped_solve, regression_mean
from adamerge.data.rows import TensorRows
from adamerge.experts.from_modules import from_modules
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.types import ConfigError

TASKS, WIDTH = tuple("abcd"), 96


def layer(seed, near=None):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(WIDTH, 8))
    if near is not None:
        with torch.no_grad():
            for own, start in zip(module.parameters(), near.parameters(), strict=True):
                own.mul_(0.3).add_(start)
    return module


def inputs(task, rows, seed=0):
    """Inputs of most variance in few directions, with channels of very different sizes, as activations have."""
    draw = torch.Generator().manual_seed(ord(task))
    directions = torch.randn(6, WIDTH, generator=draw)
    sizes = torch.logspace(-2, 2, WIDTH)[torch.randperm(WIDTH, generator=torch.Generator().manual_seed(9))]
    draw = torch.Generator().manual_seed(1000 * seed + ord(task))
    x = torch.randn(rows, 6, generator=draw) @ directions + 0.1 * torch.randn(rows, WIDTH, generator=draw)
    return x * sizes


def merged_model(dtype=torch.float32, seed=0):
    base = layer(seed)
    modules = {task: layer(seed + number, base) for number, task in enumerate(TASKS, 1)}
    experts = from_modules(base, modules)
    vectors = task_vectors(experts, experts.shared, resident=False, dtype=dtype)
    return MergedModel(experts, vectors, task_wise(experts.shared)), modules


def filtered(xs, weights, ridge=RIDGE, solves=SOLVES):
    """The same by eigenvalues, in NumPy and fp64, from inputs that are a matrix each."""
    mean = np.mean(weights, 0)
    grams = [x.T @ x / len(x) for x in (x.astype(np.float64) for x in xs)]
    left = sum(grams)
    right = sum((weight - mean) @ gram for weight, gram in zip(weights, grams, strict=True))
    damping = ridge * np.sqrt(np.diag(left)).mean() ** 2
    values, vectors = np.linalg.eigh(left)
    values = values.clip(1e-12 * values.max())
    inverse = (1 - (damping / (values + damping)) ** solves) / values
    return mean + right @ (vectors * inverse) @ vectors.T


@pytest.mark.parametrize("rows", [1, 8, 300])
def test_regmean_equals_an_independent_solution_in_fp64(tmp_path, rows):
    model, modules = merged_model()
    tables = {task: TensorRows({"input": inputs(task, rows)}) for task in TASKS}
    found = kept_merge(model, tables, RegMean(scale=1.0, rows=rows), tmp_path / "centre.safetensors", 4)["0.weight"]
    weights = [module[0].weight.detach().double().numpy() for module in modules.values()]
    expected = filtered([inputs(task, rows).numpy() for task in TASKS], weights)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [8, 30])
@pytest.mark.parametrize("scale", [1.0, 0.95])
def test_few_rows_are_no_worse_than_the_average_on_other_rows(tmp_path, rows, scale):
    for seed in range(4):
        model, modules = merged_model(seed=10 * seed)
        tables = {task: TensorRows({"input": inputs(task, rows)}) for task in TASKS}
        file = tmp_path / f"{seed}.safetensors"
        found = kept_merge(model, tables, RegMean(scale, rows), file, 4)["0.weight"]
        average = torch.stack([module[0].weight.detach() for module in modules.values()]).mean(0)
        fresh = {task: inputs(task, 400, seed=1).double() for task in TASKS}
        own = {task: module[0].weight.detach().double() for task, module in modules.items()}

        def error(merged, fresh=fresh, own=own):
            return sum((x @ (merged.double() - own[task]).T).square().mean() for task, x in fresh.items())

        assert error(found) <= error(average)
        assert found.norm() < 5 * average.norm()


def test_gram_matrices_are_fp64_whatever_the_merge_is():
    model, _ = merged_model()
    (grams,) = grams_of_experts(model, {task: TensorRows({"input": inputs(task, 8)}) for task in TASKS}, 3)
    for gram, task in zip(grams["0.weight"], TASKS, strict=True):
        x = inputs(task, 8).double()
        torch.testing.assert_close(gram, x.T @ x / 8, rtol=1e-12, atol=0)


@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(-6, 6))
def test_well_conditioned_layers_are_solved_exactly(seed, width, power):
    draw = np.random.default_rng(seed)
    xs = [draw.normal(size=(20 * width, width)) * 10.0**power for _ in range(3)]
    weights = [draw.normal(size=(2, width)) for _ in range(3)]
    grams = [torch.from_numpy(x.T @ x) for x in xs]  # the least eigenvalue is about 0.5 of the mean
    found = regression_mean([torch.from_numpy(weight) for weight in weights], grams, 1.0)
    right = np.concatenate([x @ weight.T for x, weight in zip(xs, weights, strict=True)])
    expected = np.linalg.lstsq(np.concatenate(xs), right, rcond=None)[0].T
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(7, 20))
def test_a_solve_is_bounded_however_singular_the_system_is(seed, rank, width):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rank, width, generator=draw, dtype=torch.float64)
    left = x.T @ x
    right = torch.randn(3, width, generator=draw, dtype=torch.float64) @ left
    noise = 1e-7 * left.abs().max() * torch.randn(3, width, generator=draw, dtype=torch.float64)
    moved = damped_solve(left, right + noise) - damped_solve(left, right)
    assert moved.norm() <= noise.norm() * SOLVES / (RIDGE * left.diagonal().sqrt().mean() ** 2) * (1 + 1e-6)


def test_inputs_that_are_not_finite_are_refused(tmp_path):
    model, _ = merged_model()
    tables = {task: TensorRows({"input": inputs(task, 4)}) for task in TASKS}
    tables["b"] = TensorRows({"input": inputs("b", 4).fill_(torch.inf)})
    with pytest.raises(ConfigError, match=r"b: the inputs of 0\.weight are not finite"):
        kept_merge(model, tables, RegMean(), tmp_path / "centre.safetensors", 4)
