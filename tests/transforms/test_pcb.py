import numpy as np
import pytest
import torch

from adamerge.transforms import Pcb
from adamerge.types import ConfigError

SHAPES = {"a.weight": (30, 40), "a.bias": (30,), "b.weight": (50, 21)}


def tensors(seed=0, experts=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.05 * torch.randn(experts, *shape, generator=generator) for name, shape in SHAPES.items()}


def run(transform, stacks):
    apply = transform.plan(lambda: iter(stacks.items()))
    return {name: apply(name, stack) for name, stack in stacks.items()}


def clamped(x, low, high):
    length = x.shape[1]
    ordered = np.sort(x, 1)
    return np.clip(x, ordered[:, [int(length * low)]], ordered[:, [int(length * (1 - high) - 1)]])


def normalised(x):
    return (x - x.min(1, keepdims=True)) / (x.max(1, keepdims=True) - x.min(1, keepdims=True))


def reference(whole, ratio):
    """The definition on flat vectors (K, d), by sorting."""
    magnitude = clamped(np.abs(whole), 1e-4, 1e-4)
    intra = np.exp(len(whole) * normalised(magnitude) ** 2)
    inter = np.tanh(whole * whole.sum(0))
    weights = normalised(clamped(intra * inter, 1 - ratio, 0))
    return (np.sign(whole) * magnitude * weights).sum(0) / np.maximum(weights.sum(0), 1e-12)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_parts_add_up_to_the_definition(ratio, scope):
    stacks = tensors()
    found = run(Pcb(ratio, scope), stacks)
    flat = {name: stack.flatten(1).double().numpy() for name, stack in stacks.items()}
    if scope == "global":
        flat = {"all": np.concatenate(list(flat.values()), 1)}
        found = {"all": torch.cat([part.flatten(1) for part in found.values()], 1)}
    for name, part in found.items():
        expected = reference(flat[name], ratio)
        np.testing.assert_allclose(part.flatten(1).sum(0).numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_zero_tensors_and_many_experts_stay_finite():
    for stack in (torch.zeros(3, 4, 5), torch.cat([torch.zeros(1, 40), torch.ones(1, 40)]), torch.randn(100, 3, 3)):
        assert run(Pcb(scope="tensor"), {"a": stack})["a"].isfinite().all()


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="ratio"):
        Pcb(ratio=0.0)
    with pytest.raises(ConfigError, match="scope"):
        Pcb(scope="layer")
