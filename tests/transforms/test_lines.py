import pytest
import torch

from adamerge.transforms import Lines
from adamerge.transforms.lines import depth_shares
from adamerge.types import ConfigError

NAMES = ["embed.weight", *(f"encoder.layer.{i}.dense.{p}" for i in range(5) for p in ("weight", "bias")), "pool.weight"]


def test_scale_is_linear_in_depth():
    stacks = {name: torch.ones(4, 2, 2) for name in NAMES}
    apply = Lines(alpha=0.1, beta=0.4).plan(lambda: iter(stacks.items()))
    found = [apply(name, stacks[name])[0, 0, 0].item() for name in NAMES]
    expected = [0.1, *(0.1 + 0.4 * i / 4 for i in range(5) for _ in range(2)), 0.5]
    assert found == pytest.approx(expected)


def test_default_start_is_one_over_the_number_of_experts():
    apply = Lines(beta=0.0).plan(lambda: iter([("layer.0.w", torch.ones(4, 1))]))
    assert apply("layer.0.w", torch.ones(4, 1)).tolist() == [[0.25]] * 4


def test_two_stacks_each_have_their_own_depth():
    names = ["shared", "encoder.block.0.layer.1.w", "encoder.block.2.layer.0.w", "encoder.norm", "decoder.block.1.w"]
    assert list(depth_shares(names).values()) == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_names_without_layers_and_bad_options_are_refused():
    with pytest.raises(ConfigError, match="layer number"):
        depth_shares(["a.weight", "b.weight"])
    with pytest.raises(ConfigError, match="beta"):
        Lines(beta=-1.0)
    with pytest.raises(ConfigError, match="alpha"):
        Lines(alpha=-1.0)
