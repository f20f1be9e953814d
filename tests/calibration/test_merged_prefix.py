"""Merges in forward order: an expert's block gets what the merged blocks before it pass on."""

import numpy as np
import pytest
import torch
from support.block_nets import TASKS, Net, filled, inputs, inside, model_of, nets, of_experts, rows_of

from adamerge.calibration.calibrated_merge import drafts_beside, kept_merge
from adamerge.calibration.gram_matrices import forward_order
from adamerge.calibration.merged_prefix import parts_in_order
from adamerge.calibration.regmean import RegMean, regression_mean


@torch.no_grad()
def by_hand(scale: float) -> dict[str, torch.Tensor]:
    """RegMean++ of this net, written out: embedding, block after block, output layer."""
    merged = {name: torch.stack(of_experts(name)).mean(0) for name, _ in Net(0).named_parameters()}

    def solve(name: str, xs: list[torch.Tensor]) -> None:
        merged[name] = regression_mean(of_experts(name), [x.T @ x / len(x) for x in xs], scale)

    solve("embed.weight", [inputs(task) for task in TASKS])
    states = [filled(merged).embed(inputs(task)) for task in TASKS]
    for number in (0, 1):
        seen = [inside(net.layers[number], x) for net, x in zip(nets().values(), states, strict=True)]
        for layer in ("up", "down"):
            solve(f"layers.{number}.{layer}.weight", [own[layer] for own in seen])
        states = [filled(merged).layers[number](x) for x in states]
    solve("out.weight", states)
    return merged


@pytest.mark.parametrize("blocks", [None, ()], ids=["in memory", "one block at a time"])
@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_regmean_plus_plus_is_its_definition(tmp_path, scale, blocks):
    settings = RegMean(scale=scale, inputs="merged")
    found = kept_merge(model_of(blocks), rows_of(), settings, tmp_path / "centre.safetensors", 8)
    for name, expected in by_hand(scale).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-7, atol=1e-9, err_msg=name)
    plain = kept_merge(model_of(), rows_of(), RegMean(scale=scale), tmp_path / "plain.safetensors", 8)
    torch.testing.assert_close(plain["embed.weight"], found["embed.weight"])
    assert (plain["layers.1.up.weight"] - found["layers.1.up.weight"]).abs().max() > 1e-3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_wide_blocks_are_solved_in_parts_on_the_same_inputs(tmp_path, monkeypatch):
    whole = kept_merge(model_of(), rows_of(), RegMean(inputs="merged"), tmp_path / "whole.safetensors", 8)
    monkeypatch.setattr("adamerge.calibration.regmean.split_by_room", lambda widths, tasks: [[name] for name in widths])
    parts = kept_merge(model_of(), rows_of(), RegMean(inputs="merged"), tmp_path / "parts.safetensors", 8)
    for name in whole.headers:
        torch.testing.assert_close(parts[name], whole[name])


def test_parts_are_blocks_and_layers_that_share_an_input():
    parts = parts_in_order(model_of(), rows_of())
    assert [part.paths for part in parts] == [("embed",), ("layers.0",), ("layers.1",), ("out",)]
    assert parts[1].layers == ("layers.0.up.weight", "layers.0.down.weight")
    assert parts[1].holds("layers.0.norm.bias")
    assert not parts[1].holds("layers.1.norm.bias")
    order = [name for names in forward_order(model_of(), rows_of()) for name in names]
    assert order == [name for part in parts for name in part.layers]


def test_drafts_are_mapped_from_a_file_that_goes_away(tmp_path):
    shapes = {"one": torch.Size([2, 3]), "scalar": torch.Size([]), "empty": torch.Size([0, 4])}
    with drafts_beside(tmp_path / "merge.safetensors", shapes, torch.bfloat16) as drafts:
        assert {name: draft.shape for name, draft in drafts.items()} == shapes
        drafts["one"].fill_(2)
        drafts["scalar"].fill_(3)
        assert len(list(tmp_path.iterdir())) == 1
        assert drafts["one"].sum() == 12
    assert not list(tmp_path.iterdir())
