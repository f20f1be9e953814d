"""Tensors in one block of memory: each has its own numbers, its own cache lines, its own counter of changes."""

import torch

from adamerge.experts.one_block import block_of, copies

SHAPES = [(3, 5), (), (0,), (7,), (2, 1, 4)]


def test_tensors_of_a_block_are_apart():
    made = block_of(SHAPES, torch.float32, "cpu")
    for number, tensor in enumerate(made):
        tensor.fill_(number)
    assert [tuple(tensor.shape) for tensor in made] == SHAPES
    assert all((tensor == number).all() for number, tensor in enumerate(made))
    assert len({tensor.untyped_storage().data_ptr() for tensor in made}) == 1
    assert len({tensor.data_ptr() % 64 for tensor in made if tensor.numel()}) == 1


def test_a_change_of_one_tensor_is_no_change_of_another():
    one, other = block_of([(2,), (2,)], torch.float32, "cpu")
    before = other._version
    one.add_(1)
    assert other._version == before
    assert one._version > before


def test_copies_have_dtypes_of_their_own():
    given = {"a": torch.randn(3).half(), "n": torch.arange(4), "b": torch.randn(2, 2, requires_grad=True)}
    made = copies(given, {"a": torch.float32, "n": torch.int64, "b": torch.float32}, torch.device("cpu"))
    assert {name: tensor.dtype for name, tensor in made.items()} == {
        "a": torch.float32, "n": torch.int64, "b": torch.float32,
    }  # fmt: skip
    assert all(torch.equal(tensor, given[name].to(tensor.dtype)) for name, tensor in made.items())
    assert not made["b"].requires_grad
    made["n"].zero_()
    assert given["n"].tolist() == [0, 1, 2, 3]
