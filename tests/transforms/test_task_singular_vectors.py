import numpy as np
import pytest
import torch

from adamerge.transforms import TaskSingularVectors
from adamerge.transforms.task_singular_vectors import task_singular_vectors


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(stack):
    """The definition with full SVDs: truncate, concatenate, Procrustes on either side."""
    rank = min(stack.shape[1:]) // len(stack)
    lefts, values, rights = [], [], []
    for expert in stack:
        left, value, right = np.linalg.svd(expert, full_matrices=False)
        lefts.append(left[:, :rank])
        values.append(value[:rank])
        rights.append(right[:rank])
    p, _, q = np.linalg.svd(np.concatenate(lefts, 1), full_matrices=False)
    r, _, s = np.linalg.svd(np.concatenate(rights, 0), full_matrices=False)
    return (p @ q) * np.concatenate(values) @ (r @ s), np.concatenate(values)


@pytest.mark.parametrize("shape", [(3, 12, 20), (3, 20, 12), (4, 16, 16)])
def test_parts_add_up_to_the_definition(shape):
    stack = random(*shape)
    merged = task_singular_vectors(stack).sum(0).numpy()
    expected, values = reference(stack.double().numpy())
    np.testing.assert_allclose(merged, expected, atol=1e-5)
    found = np.linalg.svd(merged, compute_uv=False)[: len(values)]
    np.testing.assert_allclose(found, np.sort(values)[::-1], rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 12, 20), (3, 20, 12)])
def test_parts_are_orthogonal_on_both_sides(shape):
    parts = task_singular_vectors(random(*shape))
    for i in range(3):
        for j in range(i):
            assert (parts[i] @ parts[j].T).abs().max() < 1e-5
            assert (parts[i].T @ parts[j]).abs().max() < 1e-5


def test_one_expert_is_itself_and_identical_experts_merge_to_their_leading_part():
    stack = random(1, 6, 9)
    torch.testing.assert_close(task_singular_vectors(stack), stack, atol=1e-5, rtol=0)
    merged = task_singular_vectors(stack.expand(3, -1, -1)).sum(0)
    left, values, right = np.linalg.svd(stack[0].double().numpy(), full_matrices=False)
    np.testing.assert_allclose(merged.numpy(), left[:, :2] * values[:2] @ right[:2], atol=1e-5)


def test_zero_experts_more_experts_than_dimensions_and_vectors():
    apply = TaskSingularVectors().plan(lambda: iter(()))
    stack = random(3, 6, 9)
    stack[1] = 0
    assert apply("a", stack).isfinite().all()
    assert not apply("a", stack)[1].any()
    assert not apply("a", torch.zeros(3, 4, 5)).any()
    assert apply("a", random(8, 2, 30)).isfinite().all()
    bias = random(4, 6)
    torch.testing.assert_close(apply("a", bias).sum(0), bias.mean(0))
    assert apply("a", random(2, 4, 3, 2, 2)).shape == (2, 4, 3, 2, 2)
