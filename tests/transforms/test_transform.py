"""Which transforms stay in the span of the task vectors' columns, so that a merge of adapters is an adapter."""

import pytest
import torch

import adamerge.transforms
from adamerge.transforms import Doge, Transform


def transforms():
    return [cls for cls in vars(adamerge.transforms).values() if isinstance(cls, type) and issubclass(cls, Transform)]


def spans(transform):
    """Share of the transformed task vectors that is outside the span of all task vectors' columns."""
    stack = torch.randn(3, 20, 2, dtype=torch.float64) @ torch.randn(3, 2, 12, dtype=torch.float64)
    name = "layers.0.weight"
    outputs = transform.plan(lambda: iter([(name, stack)]))(name, stack)
    basis, _ = torch.linalg.qr(torch.cat(list(stack[:, :, :2]), 1))
    outside = outputs - basis @ (basis.T @ outputs)
    return (outside.norm() / outputs.norm()).item()


@pytest.mark.parametrize("cls", [cls for cls in transforms() if cls is not Transform])
def test_a_transform_says_truly_whether_it_keeps_the_span(cls):
    torch.manual_seed(0)
    transform = cls()
    if transform.fisher or cls is Doge:
        assert not transform.keeps_span
        return
    assert transform.keeps_span == (spans(transform) < 1e-6)
