"""What transforms take of memory, from small tensors of the same proportions."""

import pytest
import torch

from adamerge import transforms
from adamerge.transforms import Wudi, work_bytes
from adamerge.transforms.transform import Transform

SHAPES = {"embedding": torch.Size([300, 100]), "wide": torch.Size([100, 200]), "bias": torch.Size([100])}
METHODS = [transforms.Wudi(), transforms.Isotropic(), transforms.Ties(), transforms.TaskSingularVectors()]


class Doubled(Transform):
    """Holds the stack, the same in fp64, and twice that: 1 + 2 + 2 stacks."""

    coefficient = 1.0

    def plan(self, stacks, information=None):
        return lambda name, stack: (stack.double() * 2).float()

    def experts(self, names):
        return names


def test_tensors_that_live_at_once_are_counted():
    taken = work_bytes.work_bytes(Doubled(), {"w": torch.Size([480, 96])}, {}, 3, torch.float32)
    assert taken == pytest.approx(5 * 3 * 480 * 96 * 4, rel=0.05)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.title)
def test_small_tensors_tell_what_whole_ones_take(method, monkeypatch):
    found = work_bytes.work_bytes(method, SHAPES, {}, 4, torch.float32)
    monkeypatch.setattr(work_bytes, "SIDE", 1000)
    work_bytes._tried.cache_clear()
    whole = work_bytes.work_bytes(method, SHAPES, {}, 4, torch.float32)
    work_bytes._tried.cache_clear()
    assert found == pytest.approx(whole, rel=0.1)


def test_an_embedding_of_many_rows_takes_no_product_of_rows():
    stack = 2 * 5000 * 32 * 4
    taken = work_bytes.work_bytes(Wudi(), {"embedding": torch.Size([5000, 32])}, {}, 2, torch.float32)
    assert stack < taken < 8 * stack  # R² numbers in fp64 would be 156 stacks
