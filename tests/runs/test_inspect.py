"""`adamerge inspect`: what an adapter holds, with ‖ΔW‖ by depth, from its factors."""

import json

import pytest
import torch
from support.adapters import BERT, FUSED, KINDS, experts_of, saved

from adamerge.cli import main
from adamerge.runs.inspect import norms_of

CASES = {
    "linear and embeddings": KINDS["embeddings"],
    "dora": KINDS["dora"],
    "Conv1D": KINDS["Conv1D"],
    "fused experts": (FUSED["both parameters"][0], {"target_modules": [], **FUSED["both parameters"][1]}),
}


@pytest.mark.parametrize("kind", CASES)
def test_norms_are_those_of_the_dense_difference(tmp_path, kind):
    base, adapter, _ = saved(tmp_path, *CASES[kind])
    experts = experts_of(base, a=adapter)
    found, expected = norms_of(experts, "a"), {}
    for name in experts.shared:
        block = next(block for block in sorted(found, key=len, reverse=True) if name.startswith(block))
        change = experts.tasks["a"].weights[name].double() - experts.base[name].double()
        expected[block] = expected.get(block, 0.0) + change.square().sum().item()
    for block, (moved, size) in found.items():
        assert moved == pytest.approx(expected[block] ** 0.5, rel=1e-4, abs=1e-6)
        assert size > 0
    assert any(moved > 0 for moved, _ in found.values())


def test_the_command_prints_kind_and_depths(tmp_path, capfd):
    base, adapter, _ = saved(tmp_path, BERT, {"target_modules": ["query"], "task_type": "SEQ_CLS"})
    capfd.readouterr()
    assert main(["inspect", str(adapter), "--base", str(base)]) == 0
    out = capfd.readouterr().out
    for words in ("LoRA adapter, rank 4, scale 2", "head of adapter1: classifier", "bert.encoder.layer.1", "‖ΔW‖/‖W‖"):
        assert words in out


def test_the_base_that_the_adapter_names_is_the_default(tmp_path, capfd):
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    assert main(["inspect", str(adapter)]) == 2
    assert "an adapter that names no base. Give its base: --base" in capfd.readouterr().err
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))
    assert main(["inspect", str(adapter)]) == 0
    assert "model.layers.0" in capfd.readouterr().out


def test_a_complete_checkpoint_is_shown_too(tmp_path, capfd):
    base, adapter, merged = saved(tmp_path, *KINDS["plain"])
    model = type(experts_of(base, a=adapter).tasks["a"].module).from_pretrained(base)
    model.load_state_dict(merged)
    model.save_pretrained(tmp_path / "full")
    capfd.readouterr()
    assert main(["inspect", str(tmp_path / "full")]) == 2
    assert "Add --base" in capfd.readouterr().err
    norms = [norms_of(experts_of(base, a=place), "a") for place in (adapter, tmp_path / "full")]
    for block, (moved, _) in norms[0].items():
        assert moved == pytest.approx(norms[1][block][0], rel=1e-4, abs=1e-6)
    assert torch.tensor([moved for moved, _ in norms[1].values()]).count_nonzero() == 2


def test_an_adapter_of_a_checkpoint_is_shown_over_it_or_over_the_base(tmp_path, capfd):
    """Without a base only the adapter's change is shown; with one, what checkpoint and adapter change together."""
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    full = type(experts_of(base, a=adapter).tasks["a"].module).from_pretrained(base)
    with torch.no_grad():
        full.model.layers[1].mlp.up_proj.weight += 0.1
    full.save_pretrained(tmp_path / "full")
    place, shown = [str(tmp_path / "full"), "--adapter", str(adapter)], []
    for more in ([], ["--base", str(base)]):
        capfd.readouterr()
        assert main(["inspect", *place, *more]) == 0
        shown.append({line.split()[0]: line.split()[1:] for line in capfd.readouterr().out.splitlines() if line})
    assert shown[0]["model.layers.0"][0] == shown[1]["model.layers.0"][0] != "0"
    moved = [float(one["model.layers.1"][0]) for one in shown]
    alone = 0.1 * full.model.layers[1].mlp.up_proj.weight.numel() ** 0.5
    assert moved[1] == pytest.approx((moved[0] ** 2 + alone**2) ** 0.5, rel=1e-3)
