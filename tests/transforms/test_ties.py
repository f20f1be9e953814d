import numpy as np
import pytest
import torch

from adamerge.transforms import Ties
from adamerge.types import ConfigError

SHAPES = {"a.weight": (6, 7), "a.bias": (6,), "b.weight": (5, 4)}


def tensors(seed=0, experts=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(experts, *shape, generator=generator) for name, shape in SHAPES.items()}


def run(transform, stacks):
    apply = transform.plan(lambda: iter(stacks.items()))
    return {name: apply(name, stack) for name, stack in stacks.items()}


def reference(whole, density):
    """The definition on flat vectors (K, d), entry by entry."""
    experts, length = whole.shape
    count = max(1, int(density * length))
    trimmed = np.array([np.where(np.abs(row) >= np.sort(np.abs(row))[length - count], row, 0) for row in whole])
    signs = np.sign(trimmed.sum(0, dtype=np.float32))
    total = np.sign(signs.sum())
    out = np.zeros_like(trimmed)
    for k in range(experts):
        for i in range(length):
            elected = signs[i] if signs[i] != 0 else total
            if np.sign(trimmed[k, i]) == elected:
                out[k, i] = trimmed[k, i]
    return out


@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_global_ties_is_its_definition_on_the_concatenation(density, seed):
    stacks = tensors(seed)
    found = torch.cat([stack.flatten(1) for stack in run(Ties(density), stacks).values()], 1)
    whole = torch.cat([stack.flatten(1) for stack in stacks.values()], 1)
    np.testing.assert_array_equal(found.numpy(), reference(whole.numpy(), density))


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_tensor_ties_is_its_definition_on_each_tensor(density):
    stacks = tensors()
    for name, found in run(Ties(density, scope="tensor"), stacks).items():
        expected = reference(stacks[name].flatten(1).numpy(), density)
        np.testing.assert_array_equal(found.flatten(1).numpy(), expected)


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_the_mean_is_that_of_peft(density):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    stack = tensors(2)["a.weight"]
    found = run(Ties(density, scope="tensor", reduce="mean"), {"a.weight": stack})["a.weight"].sum(0)
    expected = merge_utils.ties(list(stack), torch.ones(len(stack)), density)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_the_mean_is_that_of_mergekit(density):
    sparsify = pytest.importorskip("mergekit.sparsify")
    arithmetic = pytest.importorskip("mergekit.merge_methods.generalized_task_arithmetic")
    stack = tensors(3)["a.weight"]
    found = run(Ties(density, scope="tensor", reduce="mean"), {"a.weight": stack})["a.weight"].sum(0)
    sparse = torch.stack([sparsify.magnitude(expert, density) for expert in stack])
    mask = arithmetic.get_mask(sparse, "sum")
    torch.testing.assert_close(found, (sparse * mask).sum(0) / mask.sum(0).clamp(min=1))


def test_exact_cancellation_takes_the_total_sign():
    stacks = {"a": torch.tensor([[1.0, -5.0], [-1.0, -5.0]]), "b": torch.tensor([[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])}
    globally = run(Ties(1.0), stacks)
    assert globally["a"].tolist() == [[1.0, -5.0], [0.0, -5.0]]
    locally = run(Ties(1.0, scope="tensor"), stacks)
    assert locally["a"].tolist() == [[0.0, -5.0], [-1.0, -5.0]]


def test_one_expert_at_full_density_is_itself():
    for scope in ("global", "tensor"):
        stacks = tensors(experts=1)
        for name, found in run(Ties(1.0, scope=scope), stacks).items():
            assert torch.equal(found, stacks[name])


def test_coefficients_and_names():
    assert Ties().coefficient == 0.3
    assert Ties(reduce="mean").coefficient == 1.0
    assert Ties().experts(("x", "y")) == ("x", "y")


@pytest.mark.parametrize("options", [{"density": 1.5}, {"scope": "block"}, {"reduce": "median"}])
def test_bad_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Ties(**options)
