"""DC-Merge against the formula by NumPy's SVD, and where it must give the experts back."""

import numpy as np
import pytest
import torch

from adamerge.transforms import DcMerge
from adamerge.types import ConfigError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def merge(transform, stack):
    return transform.plan(lambda: iter(()))("layer.0.weight", stack)


def naive(stack, energies, density):
    """The paper's steps, one after another, with whole matrices."""
    tasks = list(stack.numpy())
    rank = max(1, min(tasks[0].shape) // len(tasks))
    lefts, rights, smoothed = [], [], []
    for task in tasks:
        u, s, v = np.linalg.svd(task, full_matrices=False)
        u, s, v = u[:, :rank], s[:rank], v[:rank]
        lefts.append(u)
        rights.append(v.T)
        smoothed.append(u @ np.diag(np.full(rank, s.mean()) if energies == "mean" else s) @ v)
    covers = []
    for parts in (lefts, rights):
        u, _, v = np.linalg.svd(np.concatenate(parts, 1), full_matrices=False)
        covers.append(u @ v)
    cores = [covers[0].T @ task @ covers[1] for task in smoothed]
    if density is not None:
        most = max(1, int(density * cores[0].size))
        cores = [np.where(np.abs(c) >= np.sort(np.abs(c).ravel())[-most], c, 0) for c in cores]
        sign = np.sign(sum(cores))
        agreeing = [np.where((np.sign(c) == sign) & (sign != 0), c, 0) for c in cores]
        merged = sum(agreeing) / np.maximum(1, sum(a != 0 for a in agreeing))
    else:
        merged = sum(cores)
    kept = np.zeros_like(merged)
    for k in range(len(tasks)):
        block = slice(k * rank, (k + 1) * rank)
        kept[block, block] = merged[block, block]
    return covers[0] @ kept @ covers[1].T


@pytest.mark.parametrize("energies", ["mean", "own"])
@pytest.mark.parametrize("density", [None, 0.1, 0.6])
@pytest.mark.parametrize("shape", [(3, 9, 14), (2, 10, 6), (4, 8, 8), (3, 2, 5)])
def test_it_is_its_definition(shape, energies, density):
    stack = random(*shape)
    found = merge(DcMerge(energies, density), stack)[0]
    if shape[0] > min(shape[1:]):  # more directions than the space has: the cover is not unique, the merge is finite
        assert found.isfinite().all()
        return
    np.testing.assert_allclose(found, naive(stack, energies, density), atol=1e-8)


def test_orthogonal_experts_keep_their_directions_with_equal_energy():
    stack = torch.zeros(2, 6, 6, dtype=torch.float64)
    stack[0, :3, :3], stack[1, 3:, 3:] = random(3, 3), 5 * random(3, 3, seed=1)
    found = merge(DcMerge(), stack)[0]
    torch.testing.assert_close(merge(DcMerge("own"), stack)[0], stack.sum(0))
    for block in (slice(0, 3), slice(3, 6)):
        sizes = torch.linalg.svdvals(found[block, block])
        expected = torch.linalg.svdvals(stack.sum(0)[block, block]).mean()
        torch.testing.assert_close(sizes, expected.expand(3))
    assert found[:3, 3:].abs().max() < 1e-9


def test_shapes_vectors_and_zeros():
    for transform in (DcMerge(), DcMerge(density=0.001)):
        assert merge(transform, random(2, 4, 3, 2, 2)).shape == (1, 4, 3, 2, 2)
        assert not merge(transform, torch.zeros(2, 4, 3)).any()
        bias = random(4, 6)
        torch.testing.assert_close(merge(transform, bias), bias.mean(0, keepdim=True))
        half = torch.stack([torch.zeros(4, 6, dtype=torch.float64), random(4, 6)])
        assert merge(transform, half).isfinite().all()


@pytest.mark.parametrize("options", [{"density": 0.0}, {"density": 1.5}, {"energies": "linear"}])
def test_bad_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        DcMerge(**options)
