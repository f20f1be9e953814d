import numpy as np
import pytest
import torch

from adamerge.transforms import Magnitude
from adamerge.types import ConfigError

SHAPES = {"a.weight": (6, 7), "a.bias": (6,), "conv.weight": (3, 2, 2, 2), "scale": ()}


def tensors(seed=0, experts=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(experts, *shape, generator=generator) for name, shape in SHAPES.items()}


def run(transform, stacks):
    apply = transform.plan(lambda: iter(stacks.items()))
    return {name: apply(name, stack) for name, stack in stacks.items()}


def trimmed(row, density):
    count = max(1, int(density * row.size))
    return np.where(np.abs(row) >= np.sort(np.abs(row))[row.size - count], row, 0)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
def test_global_density_is_that_of_the_whole_vector(density):
    stacks = tensors()
    found = torch.cat([stack.reshape(3, -1) for stack in run(Magnitude(density), stacks).values()], 1).numpy()
    whole = torch.cat([stack.reshape(3, -1) for stack in stacks.values()], 1).numpy()
    np.testing.assert_array_equal(found, np.stack([trimmed(row, density) for row in whole]))


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
def test_tensor_density_is_that_of_each_tensor(density):
    stacks = tensors()
    for name, found in run(Magnitude(density, "tensor"), stacks).items():
        expected = np.stack([trimmed(row.flatten().numpy(), density) for row in stacks[name]])
        np.testing.assert_array_equal(found.reshape(3, -1).numpy(), expected)


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_tensor_scope_agrees_with_peft(density):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    stack = tensors()["a.weight"]
    found = run(Magnitude(density, "tensor"), {"a.weight": stack})["a.weight"]
    expected = torch.stack([merge_utils.prune(expert, density, "magnitude") for expert in stack])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5])
def test_tensor_scope_agrees_with_mergekit(density):
    sparsify = pytest.importorskip("mergekit.sparsify")
    stack = tensors()["a.weight"]
    found = run(Magnitude(density, "tensor"), {"a.weight": stack})["a.weight"]
    assert torch.equal(found, torch.stack([sparsify.magnitude(expert, density) for expert in stack]))


@pytest.mark.parametrize(("options", "key"), [({"density": 0.0}, "density"), ({"scope": "layer"}, "scope")])
def test_bad_options_are_named(options, key):
    with pytest.raises(ConfigError, match=key):
        Magnitude(**options)
