"""ACTMat against the weighted least squares that it solves, stacked and solved by NumPy."""

import numpy as np
import pytest
import torch

from adamerge.transforms import ActMat
from adamerge.transforms.act_mat import act_mat
from adamerge.types import ConfigError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def merge(transform, stack):
    return transform.plan(lambda: iter(()))("layer.0.weight", stack)


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 2, 9), (4, 9, 4), (3, 7, 7)])
def test_it_is_the_least_squares_solution_with_task_vectors_as_inputs(shape):
    """min Σₖ ‖τₖ (U - τₖ)ᵀ‖²: every row of a task vector is an input, and its own expert's output the target."""
    stack = random(*shape) * torch.tensor([1.0, 0.3, 3.0, 0.1])[: shape[0], None, None]
    inputs = np.concatenate(list(stack.numpy()))
    targets = np.concatenate([task @ task.T for task in stack.numpy()])
    expected = np.linalg.lstsq(inputs, targets, rcond=None)[0].T
    np.testing.assert_allclose(merge(ActMat(), stack)[0], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_a_ridge_pulls_to_zero_by_its_share_of_the_mean_eigenvalue(ridge):
    stack = random(3, 5, 8)
    gram = sum(task.T @ task for task in stack.numpy())
    target = sum(task @ task.T @ task for task in stack.numpy())
    expected = target @ np.linalg.inv(gram + ridge * np.trace(gram) / 8 * np.eye(8))
    np.testing.assert_allclose(act_mat(stack, ridge), expected, rtol=1e-8)


def test_rounding_of_fp32_weights_is_not_inverted():
    """Two experts of rank 2, whose other directions are noise of a millionth of a millionth."""
    stack = random(2, 6, 2, seed=1) @ random(2, 2, 9, seed=2)
    exact = act_mat(stack)
    noisy = act_mat(stack + 1e-13 * random(2, 6, 9, seed=3))
    torch.testing.assert_close(noisy, exact, rtol=0, atol=1e-8)


def test_equal_experts_are_one_of_them_and_orthogonal_ones_their_sum():
    one = random(1, 4, 6)
    torch.testing.assert_close(merge(ActMat(), one.expand(5, -1, -1)), one)
    apart = torch.zeros(2, 4, 6, dtype=torch.float64)
    apart[0, :, :3], apart[1, :, 3:] = random(4, 3), 9 * random(4, 3, seed=1)
    torch.testing.assert_close(merge(ActMat(), apart)[0], apart.sum(0))


def test_shapes_vectors_and_zeros():
    assert merge(ActMat(), random(2, 4, 3, 2, 2)).shape == (1, 4, 3, 2, 2)
    assert not merge(ActMat(), torch.zeros(2, 4, 3)).any()
    bias = random(4, 6)
    torch.testing.assert_close(merge(ActMat(), bias), bias.mean(0, keepdim=True))


@pytest.mark.parametrize("ridge", [-0.1, float("inf")])
def test_bad_options_are_named(ridge):
    with pytest.raises(ConfigError, match="ridge"):
        ActMat(ridge)
