import numpy as np
import pytest
import torch

from adamerge.transforms import Doge, Wudi
from adamerge.transforms.doge_fit import (
    complement,
    fit,
    fit_adam,
    norm_coefficients,
    residuals,
    shared_subspace,
)
from adamerge.types import ConfigError


def experts(count, rows, columns, dtype=torch.float32, seed=0):
    """Task vectors with a decaying spectrum and a common part, of the size of real ones."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    own = torch.randn(count, rows, columns, generator=generator, dtype=torch.float64)
    decay = torch.linspace(0, -3, min(rows, columns), dtype=torch.float64).exp()
    left, _, right = torch.linalg.svd(own + 0.5 * common, full_matrices=False)
    return (1e-2 * left * decay @ right).to(dtype)


def loss(stack, coefficients, delta, residual="row"):
    return residuals(stack.double(), coefficients.double(), delta.double(), residual).square().sum()


def test_residuals_are_their_definition():
    stack, coefficients = experts(3, 4, 6, torch.float64), torch.tensor([0.3, 0.5, 0.1], dtype=torch.float64)
    delta = experts(1, 4, 6, torch.float64, seed=1)[0]
    tau, change, scale = stack.numpy(), delta.numpy(), coefficients.numpy()
    merged = sum(scale[k] * (tau[k] + change) for k in range(3))
    rows = np.array([[tau[k, r] @ (tau[k, r] - merged[r]) for r in range(4)] for k in range(3)])
    np.testing.assert_allclose(residuals(stack, coefficients, delta), rows, atol=1e-14)
    np.testing.assert_allclose(residuals(stack, coefficients, delta, "matrix"), rows.sum(1), atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 12, 20), (3, 20, 12), (8, 6, 40), (4, 64, 5)])
def test_shared_subspace_spans_that_of_full_svds(shape):
    stack = experts(*shape, torch.float64)
    rank = max(1, min(shape[1:]) // shape[0])
    bases = [np.linalg.svd(expert, full_matrices=False)[0][:, :rank] for expert in stack.numpy()]
    expected = np.linalg.svd(np.concatenate(bases, 1), full_matrices=False)[0][:, :rank]
    found = shared_subspace(stack).numpy()
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-8)


@pytest.mark.parametrize("residual", ["row", "matrix"])
@pytest.mark.parametrize("shape", [(8, 64, 96), (8, 96, 64), (4, 48, 48), (12, 40, 80)])
def test_exact_fit_stays_in_the_complement_and_closes_the_gap(shape, residual):
    stack = experts(*shape)
    coefficients = norm_coefficients(stack, 0.07)
    basis = shared_subspace(stack)
    delta = fit(stack, coefficients, basis, residual)
    assert (basis.T @ delta).norm() <= 1e-5 * delta.norm()
    start = loss(stack, coefficients, torch.zeros_like(delta), residual)
    assert loss(stack, coefficients, delta, residual) <= 1e-6 * start


@pytest.mark.parametrize("residual", ["row", "matrix"])
@pytest.mark.parametrize("shape", [(3, 8, 10), (3, 10, 3)])
def test_exact_fit_is_the_minimum_norm_solution_of_numpy(shape, residual):
    stack = experts(*shape, torch.float64)
    coefficients, basis = norm_coefficients(stack, 0.07), shared_subspace(stack)
    delta = fit(stack, coefficients, basis, residual, damping=0.0, tolerance=1e-20, steps=5000)
    rows, columns = shape[1:]
    outside = np.eye(rows) - basis.numpy() @ basis.numpy().T
    total = coefficients.sum().item()
    design = []
    for index in np.ndindex(rows, columns):
        unit = np.zeros((rows, columns))
        unit[index] = total
        design.append(np.einsum("krm,rm->kr" if residual == "row" else "krm,rm->k", stack.numpy(), outside @ unit))
    target = residuals(stack, coefficients, torch.zeros_like(delta), residual).numpy().ravel()
    matrix = np.stack([column.ravel() for column in design], 1)
    expected = np.linalg.lstsq(matrix, target, rcond=1e-12)[0].reshape(rows, columns)
    np.testing.assert_allclose(delta.numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_adam_follows_autograd_and_leaves_the_complement():
    stack = experts(4, 16, 24)
    coefficients, basis = norm_coefficients(stack, 0.07), shared_subspace(stack)
    delta = torch.nn.Parameter(torch.zeros(16, 24))
    optimizer = torch.optim.Adam([delta], lr=1e-4)
    for _ in range(30):
        optimizer.zero_grad()
        residuals(stack, coefficients, delta).square().sum().backward()
        delta.grad = complement(delta.grad, basis)
        optimizer.step()
    found = fit_adam(stack, coefficients, basis, steps=30)
    torch.testing.assert_close(found, delta.data, atol=1e-6, rtol=1e-3)
    assert (basis.T @ found).norm() > 1e-2 * found.norm()


def run(transform, stacks):
    apply = transform.plan(lambda: iter(stacks.items()))
    return {name: apply(name, stack) for name, stack in stacks.items()}


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("order", ["before", "after", "none"])
def test_outputs_are_scaled_masked_modified_task_vectors(order, scope):
    stacks = {"a": experts(3, 20, 30), "bias": torch.ones(3, 7), "b": experts(3, 24, 12, seed=1)}
    found = run(Doge(density=0.3, mask_order=order, scope=scope), stacks)
    flat = torch.cat([stacks[name].flatten(1) for name in ("a", "b")], 1).abs()
    for name in ("a", "b"):
        own = flat if scope == "global" else stacks[name].flatten(1).abs()
        threshold = own.kthvalue(own.shape[1] - int(0.3 * own.shape[1]) + 1, dim=1).values[:, None, None]
        mask = stacks[name].abs() >= threshold
        tau = stacks[name] * mask if order == "before" else stacks[name]
        coefficients = 0.07 / tau.flatten(1).norm(dim=1)
        delta = fit(tau, coefficients, shared_subspace(tau))
        expected = coefficients[:, None, None] * (tau + delta) * (mask if order == "after" else 1)
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=1e-3)
    assert not found["bias"].any()


def test_vectors_option_and_what_stays_at_the_base():
    stacks = {"a": experts(4, 6, 8), "bias": torch.ones(4, 3), "scale": torch.ones(4)}
    assert torch.equal(run(Doge(vectors="average"), stacks)["bias"].sum(0), torch.ones(3))
    torch.testing.assert_close(run(Doge(vectors="task_arithmetic"), stacks)["bias"], torch.full((4, 3), 0.3))
    stacks["embed.weight"] = torch.ones(4, 5, 2)
    assert not run(Doge(), stacks)["embed.weight"].any()
    assert run(Doge(exclude=()), stacks)["embed.weight"].any()


def test_unbalanced_outputs_lack_the_coefficients_alone():
    stacks = {"a": experts(4, 6, 8), "bias": torch.ones(4, 3)}
    whole, bare = (run(Doge(vectors="average", balanced=balanced), stacks) for balanced in (True, False))
    ratio = (whole["a"].flatten(1).norm(dim=1) / bare["a"].flatten(1).norm(dim=1))[:, None, None]
    torch.testing.assert_close(whole["a"], ratio * bare["a"])
    torch.testing.assert_close(whole["bias"], Doge(balanced=False).coefficient * bare["bias"])


def test_nothing_to_fit_is_refused():
    with pytest.raises(ConfigError, match="fits matrices"):
        Doge().check(2, {"bias": (3,), "embed.weight": (4, 5)})
    Doge(exclude=()).check(2, {"embed.weight": (4, 5)})


@pytest.mark.parametrize("solver", ["exact", "adam"])
def test_degenerate_stacks_stay_finite(solver):
    zero = experts(3, 6, 8)
    zero[1] = 0
    twins = experts(1, 6, 8).expand(3, -1, -1).clone()
    cases = {"zero": zero, "twins": twins, "none": torch.zeros(3, 6, 8), "row": experts(3, 1, 8)}
    cases |= {"column": experts(3, 8, 1), "conv": torch.randn(3, 4, 2, 3, 3)}
    for name, stack in cases.items():
        found = run(Doge(solver=solver, scope="tensor"), {name: stack})[name]
        assert found.shape == stack.shape
        assert found.isfinite().all()
        assert not found[stack.flatten(1).norm(dim=1) == 0].any()


def test_one_expert_keeps_its_direction_and_has_norm_eta():
    stack = experts(1, 6, 8)
    found = run(Doge(eta=0.5, mask_order="none"), {"a": stack})["a"]
    torch.testing.assert_close(found, 0.5 * stack / stack.norm())


def test_small_task_vectors_are_fitted_as_well():
    stack = experts(4, 32, 48) * 1e-6
    coefficients, basis = norm_coefficients(stack, 0.07), shared_subspace(stack)
    delta = fit(stack, coefficients, basis)
    assert loss(stack, coefficients, delta) <= 1e-6 * loss(stack, coefficients, torch.zeros_like(delta))


BAD = {
    "eta": 0.0,
    "density": 0.0,
    "mask_order": "during",
    "scope": "layer",
    "residual": "column",
    "shared_rank": 0,
    "damping": -1.0,
    "solver": "sgd",
    "vectors": "zero",
}


@pytest.mark.parametrize("key", BAD)
def test_bad_options_are_named(key):
    with pytest.raises(ConfigError, match=key):
        Doge(**{key: BAD[key]})


@pytest.mark.parametrize("make", [Doge, Wudi], ids=lambda make: make.__name__)
def test_a_task_vector_of_rounding_alone_counts_as_zero(make):
    """Its direction is noise, and a method that divides by norms would add it at full size."""
    draw = torch.Generator().manual_seed(0)
    stack = torch.randn(3, 8, 12, generator=draw)
    noise, zero = stack.clone(), stack.clone()
    noise[1] *= 1e-8
    zero[1] = 0
    found, expected = (make().plan(lambda s=s: iter([("w", s)]))("w", s).sum(0) for s in (noise, zero))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
