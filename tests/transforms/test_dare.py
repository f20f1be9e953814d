import pytest
import torch

from adamerge.transforms import Dare
from adamerge.types import ConfigError


def no_stacks():
    return iter(())


def test_mean_is_preserved_and_survivors_are_rescaled():
    stack = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([Dare(0.75, seed).plan(no_stacks)("a", stack) for seed in range(4000)])
    kept = draws != 0
    torch.testing.assert_close(draws[kept], (4 * stack).expand_as(draws)[kept])
    assert abs(kept.float().mean() - 0.25) < 0.01
    assert ((draws.mean(0) - stack).abs() < 0.12 * stack.abs() + 0.01).all()


@pytest.mark.parametrize("drop", [0.3, 0.9])
def test_with_the_same_masks_the_sum_is_that_of_peft(drop, monkeypatch):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    stack = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0))
    found = Dare(drop).plan(no_stacks)("a", stack)
    masks = iter((found != 0).float())
    monkeypatch.setattr(merge_utils.torch, "bernoulli", lambda probabilities: next(masks))
    torch.testing.assert_close(found.sum(0), merge_utils.dare_linear(list(stack), torch.ones(3), 1 - drop))


def test_masks_depend_on_seed_name_and_expert_alone():
    stack = torch.ones(2, 50)
    apply = Dare(0.5, seed=1).plan(no_stacks)
    first = apply("a", stack)
    other = apply("b", stack)
    assert torch.equal(apply("a", stack), first)
    assert not torch.equal(other, first)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(Dare(0.5, seed=2).plan(no_stacks)("a", stack), first)


def test_dropping_nothing_is_the_identity():
    stack = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Dare(0.0).plan(no_stacks)("a", stack), stack)


@pytest.mark.parametrize("drop", [-0.1, 1.0])
def test_bad_probability_is_named(drop):
    with pytest.raises(ConfigError, match="drop"):
        Dare(drop)
