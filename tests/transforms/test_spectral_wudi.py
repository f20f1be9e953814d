"""SWUDI and ASWUDI against the same update by NumPy: gradient flow in small steps, and a truncated pseudo-inverse."""

import numpy as np
import pytest
import torch

from adamerge.transforms import Aswudi, Swudi
from adamerge.transforms.spectral_wudi import gavish_donoho, participation
from adamerge.types import ConfigError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def merge(transform, stack):
    return transform.plan(lambda: iter(()))("layer.0.weight", stack)


def moments(stack):
    """ΣG and ΣτG, a loop over experts."""
    tasks = [task for task in stack.numpy() if task.any()]
    gram = sum(task.T @ task / (task**2).sum() for task in tasks)
    return gram, sum(task @ task.T @ task / (task**2).sum() for task in tasks)


def truncated(stack, most, start):
    """The minimum of F in the span of the leading right singular vectors of all unit task vectors; else the start."""
    tasks = stack.numpy()
    units = np.concatenate([task / np.linalg.norm(task) for task in tasks if task.any()])
    _, sizes, right = np.linalg.svd(units, full_matrices=False)
    basis = right[:most][sizes[:most] > 1e-6 * sizes[0]].T
    gram, target = moments(stack)
    inside = target @ basis @ np.linalg.inv(basis.T @ gram @ basis) @ basis.T
    return start + inside - start @ basis @ basis.T


STARTS = {"sum": lambda stack: stack.sum(0), "mean": lambda stack: stack.mean(0), "zero": lambda stack: 0 * stack[0]}


@pytest.mark.parametrize("start", STARTS)
def test_swudi_is_gradient_flow_stopped_at_its_time(start):
    stack = random(3, 5, 6)
    gram, target = moments(stack)
    update, steps, time = STARTS[start](stack).numpy(), 4000, 4.0
    for _ in range(steps):
        update = update - time / steps * (update @ gram - target)
    found = merge(Swudi(time=time, keep=1.0, start=start), stack)
    np.testing.assert_allclose(found[0], update, atol=2e-3)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("shape", "keep"), [((3, 5, 8), 0.5), ((2, 2, 9), 0.3), ((4, 9, 4), 0.65), ((2, 3, 8), 1.0)])
def test_swudi_moves_the_leading_directions_alone(shape, keep, start):
    stack = random(*shape)
    found = merge(Swudi(time=1e9, keep=keep, start=start), stack)
    origin = STARTS[start](stack).numpy()
    np.testing.assert_allclose(found[0], truncated(stack, int(np.ceil(keep * shape[2])), origin), atol=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_aswudi_is_the_minimum_in_as_many_directions_as_the_participation_ratio(start):
    stack = random(3, 6, 12) * torch.logspace(0, -2, 12, dtype=torch.float64)
    roots = np.sqrt(np.linalg.eigvalsh(moments(stack)[0]))
    most = int(np.ceil(roots.sum() ** 2 / (roots**2).sum()))
    assert 3 < most < 12
    found = merge(Aswudi(start=start), stack)
    np.testing.assert_allclose(found[0], truncated(stack, most, STARTS[start](stack).numpy()), atol=1e-6)


def test_aswudi_by_threshold_is_the_minimum_above_it():
    strong = random(3, 40, 2, seed=1) @ random(3, 2, 40, seed=2)
    stack = 3 * strong + random(3, 40, 40)
    roots = np.sqrt(np.linalg.eigvalsh(moments(stack)[0])[::-1])
    most = int((roots > 2.86 * np.median(roots)).sum())
    assert 0 < most < 40
    found = merge(Aswudi("gavish_donoho"), stack)
    np.testing.assert_allclose(found[0], truncated(stack, most, stack.sum(0).numpy()), atol=1e-6)


def test_the_threshold_finds_the_rank_under_noise_of_any_size():
    for shape, size in (((200, 200), 1.0), ((100, 200), 1e-4)):
        signal = 40 * size * (random(shape[0], 3, seed=1) @ random(3, shape[1], seed=2)) / 10
        matrix = signal + size * random(*shape)
        values = torch.linalg.svdvals(matrix).square()
        assert gavish_donoho(values, shape[0] / shape[1], shape[0]) == 3


def test_counts_of_spectra():
    assert [participation(torch.full((n,), 2.0)) for n in (0, 1, 7)] == [0, 1, 7]
    assert participation(torch.tensor([1.0, 0.25]).double()) == 2  # (1.5)² / 1.25 = 1.8
    assert gavish_donoho(torch.ones(3), 1.0, 8) == 3  # five directions are zero, and so is the median


def test_a_single_expert_is_itself_and_orthogonal_experts_are_their_sum():
    one = random(1, 4, 6)
    apart = torch.zeros(2, 4, 6, dtype=torch.float64)
    apart[0, :, :3], apart[1, :, 3:] = random(4, 3), random(4, 3, seed=1)
    for transform in (Swudi(), Aswudi(), Aswudi("gavish_donoho")):
        torch.testing.assert_close(merge(transform, one), one)
        torch.testing.assert_close(merge(transform, apart)[0], apart.sum(0))


def test_the_start_has_the_size_of_all_experts_or_of_one():
    """Of five equal experts the sum has five times the size in the directions that are left out, the mean their own."""
    stack = (random(1, 6, 6) * torch.logspace(0, -3, 6, dtype=torch.float64)).expand(5, -1, -1)
    right = np.linalg.svd(stack[0].numpy())[2]
    for start, size in (("sum", 5.0), ("mean", 1.0), ("zero", 0.0)):
        found = merge(Swudi(keep=0.5, start=start), stack)[0].numpy()
        np.testing.assert_allclose(found @ right[-1], size * stack[0].numpy() @ right[-1], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found @ right[0], stack[0].numpy() @ right[0], rtol=1e-6)


@pytest.mark.parametrize("transform", [Swudi(), Aswudi(), Aswudi("gavish_donoho", "zero")], ids=repr)
def test_shapes_vectors_and_zeros(transform):
    assert merge(transform, random(2, 4, 3, 2, 2)).shape == (1, 4, 3, 2, 2)
    assert not merge(transform, torch.zeros(2, 4, 3)).any()
    bias = random(4, 6)
    torch.testing.assert_close(merge(transform, bias), bias.mean(0, keepdim=True))
    half = torch.stack([torch.zeros(4, 6), random(4, 6).float()])
    assert merge(transform, half).isfinite().all()
    assert merge(transform, half).dtype == torch.float32


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Swudi, {"time": 0.0}),
        (Swudi, {"keep": 0.0}),
        (Swudi, {"keep": 1.5}),
        (Swudi, {"start": "base"}),
        (Aswudi, {"rank": "stable"}),
        (Aswudi, {"start": 1}),
    ],
)
def test_bad_options_are_named(cls, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        cls(**options)
