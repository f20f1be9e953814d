import numpy as np
import pytest
import torch

from adamerge.transforms import Wudi
from adamerge.transforms.wudi import interference, wudi, wudi_adam
from adamerge.types import ConfigError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(update, stack):
    return sum(
        np.linalg.norm((update - task) @ task.T) ** 2 / np.linalg.norm(task) ** 2 for task in stack if task.any()
    )


def test_interference_is_its_definition():
    stack = random(3, 5, 8)
    stack[1] = 0
    update = random(5, 8, seed=1)
    assert interference(update, stack).item() == pytest.approx(loss(update.numpy(), stack.numpy()))


@pytest.mark.parametrize("shape", [(3, 5, 8), (4, 6, 6), (3, 2, 10)])
def test_closed_form_is_the_least_squares_solution(shape):
    stack = random(*shape)
    rows = [task / np.linalg.norm(task) for task in stack.numpy()]
    # vec problem: U A = B with A the stacked unit task vectors' rows as columns
    design = np.concatenate(rows, 0).T
    target = np.concatenate([task @ row.T for task, row in zip(stack.numpy(), rows, strict=True)], 1)
    expected = np.linalg.lstsq(design.T, target.T, rcond=None)[0].T
    np.testing.assert_allclose(wudi(stack, ridge=1e-9).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_gradient_vanishes_at_the_closed_form():
    stack = random(4, 6, 10)
    update = wudi(stack, ridge=1e-12).requires_grad_()
    interference(update, stack).backward()
    assert update.grad.abs().max() < 1e-7


def test_orthogonal_experts_keep_their_sum():
    stack = torch.zeros(2, 4, 6, dtype=torch.float64)
    stack[0, :, :3], stack[1, :, 3:] = random(4, 3), random(4, 3, seed=1)
    torch.testing.assert_close(wudi(stack), stack.sum(0))


def test_adam_follows_autograd_and_descends():
    stack = random(3, 5, 8).float()
    update = torch.nn.Parameter(stack.sum(0))
    optimizer = torch.optim.Adam([update], lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        interference(update, stack).backward()
        optimizer.step()
    found = wudi_adam(stack, lr=1e-3, steps=20)
    torch.testing.assert_close(found, update.data, atol=1e-5, rtol=1e-4)
    assert interference(found, stack) < interference(stack.sum(0), stack)


def test_shapes_vectors_and_zeros():
    for solver in ("closed", "adam"):
        apply = Wudi(solver).plan(lambda: iter(()))
        assert apply("a", torch.randn(2, 4, 3, 2, 2)).shape == (1, 4, 3, 2, 2)
        assert not apply("a", torch.zeros(2, 4, 3)).any()
        bias = random(4, 6)
        torch.testing.assert_close(apply("a", bias), bias.mean(0, keepdim=True))


@pytest.mark.parametrize("options", [{"solver": "sgd"}, {"ridge": 0.0}, {"lr": 0.0}, {"steps": 0}])
def test_bad_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Wudi(**options)
