import numpy as np
import pytest
import torch

from adamerge.transforms import Isotropic
from adamerge.transforms.thin_svd import polar, thin_svd


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9), (1, 5)])
def test_thin_svd_agrees_with_numpy(shape):
    matrix = random(*shape)
    left, values, right = thin_svd(matrix)
    np.testing.assert_allclose(values, np.linalg.svd(matrix.double().numpy(), compute_uv=False), rtol=1e-9)
    torch.testing.assert_close(left * values @ right.T, matrix.double())
    for factor in (left, right):
        torch.testing.assert_close(factor.T @ factor, torch.eye(len(values), dtype=torch.float64))


def test_thin_svd_knows_the_rank():
    matrix = random(20, 3) @ random(3, 30, seed=1)
    assert thin_svd(matrix)[1].shape == (3,)
    assert thin_svd(torch.zeros(4, 6))[1].shape == (0,)
    partial = polar(matrix)
    torch.testing.assert_close(partial @ partial.T @ partial, partial)


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (4, 3, 2, 2)])
def test_singular_values_are_all_the_mean(shape):
    stack = random(3, *shape)
    found = Isotropic().plan(lambda: iter(()))("a", stack)
    assert found.shape == (1, *shape)
    summed = stack.sum(0).flatten(1).double().numpy()
    left, values, right = np.linalg.svd(summed, full_matrices=False)
    np.testing.assert_allclose(found[0].flatten(1).numpy(), values.mean() * left @ right, atol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(found[0].flatten(1).numpy(), compute_uv=False), values.mean(), rtol=1e-5)


def test_vectors_are_averaged_and_zero_stays_zero():
    apply = Isotropic().plan(lambda: iter(()))
    stack = random(4, 6)
    torch.testing.assert_close(apply("a", stack), stack.mean(0, keepdim=True))
    assert not apply("a", torch.zeros(3, 4, 5)).any()
    assert Isotropic().experts(("x", "y")) == ("merged",)
