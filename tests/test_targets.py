"""Kept targets equal online ones, and a changed or damaged file is noticed."""

import pytest
import torch
from families import build, save_family

from adamerge.checkpoint import open_checkpoint
from adamerge.data import Batching, TensorRows
from adamerge.experts import from_checkpoints
from adamerge.feasible import Unbounded
from adamerge.grouping import task_wise
from adamerge.inspection import inspect_weights
from adamerge.learn import Learning, divide, learn
from adamerge.merged import MergedModel, choose_layers, task_vectors
from adamerge.objectives import LogitAlignment
from adamerge.targets import TargetSettings, compute_targets
from adamerge.types import ConfigError


def model_of(folder, architecture, family, count=2):
    backbone = "BertModel" if family == "bert" else architecture
    base = build(backbone, family, 0)
    experts = {}
    for seed, name in enumerate("abc"[:count], 1):
        expert = build(architecture, family, seed)
        state = base.state_dict()
        with torch.no_grad():
            for key, parameter in expert.named_parameters():
                start = state.get(key.removeprefix("bert."))
                if start is not None and start.shape == parameter.shape:
                    parameter.copy_(start + 0.3 * parameter)
        experts[name] = expert
    paths = save_family(folder, base, experts)
    opened = {name: open_checkpoint(path) for name, path in paths.items()}
    experts = from_checkpoints(opened.pop(""), opened)
    vectors = task_vectors(experts, inspect_weights(experts).changed)
    return MergedModel(experts, vectors, task_wise(tuple(vectors.shapes)))


def rows_of(count=6, seed=0):
    torch.manual_seed(seed)
    mask = (torch.arange(9) < torch.randint(3, 10, (count, 1))).long()
    return TensorRows({"input_ids": torch.randint(3, 40, (count, 9)), "attention_mask": mask}, positions=mask.bool())


@pytest.mark.parametrize(
    ("architecture", "family"), [("BertForSequenceClassification", "bert"), ("LlamaForCausalLM", "llama")]
)
def test_kept_outputs_are_the_experts_own(tmp_path, architecture, family):
    model, rows = model_of(tmp_path / "models", architecture, family), rows_of()
    settings = TargetSettings(layers=("middle", -1), size=4)
    compute_targets(model, {"a": rows}, settings, tmp_path / "kept")
    kept = compute_targets(model, {"a": rows}, settings, tmp_path / "kept")["a"]
    batch = rows.batch([5, 0, 3])
    online = model.forward_expert("a", batch.inputs, settings.layers)
    found = kept(batch, online)
    counts = batch.positions
    logits = (found.logits, online.logits) if family == "bert" else (found.logits[counts], online.logits[counts])
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    for state, expected in zip(found.hidden, online.hidden, strict=True):
        torch.testing.assert_close(state[counts], expected[counts], rtol=2e-3, atol=2e-3)  # half precision


def test_a_second_run_reuses_and_a_change_is_noticed(tmp_path, monkeypatch):
    model, rows, folder = (
        model_of(tmp_path / "models", "BertForSequenceClassification", "bert"),
        rows_of(),
        tmp_path / "kept",
    )
    runs = []
    forward = model.forward_expert
    monkeypatch.setattr(model, "forward_expert", lambda *a: runs.append(a[0]) or forward(*a))

    def count(rows, settings):
        runs.clear()
        compute_targets(model, {"a": rows}, settings, folder)
        return len(runs)

    settings = TargetSettings(size=32)
    assert count(rows, settings) == 1
    assert count(rows, settings) == 0
    assert count(rows_of(seed=1), settings) == 1
    assert count(rows, TargetSettings(layers=(1,), size=32)) == 1
    (file,) = folder.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-4] + bytes(b ^ 1 for b in good[-4:]))
    assert count(rows, TargetSettings(layers=(1,), size=32)) == 1
    assert file.read_bytes() == good
    file.write_bytes(good[:50])
    assert count(rows, TargetSettings(layers=(1,), size=32)) == 1
    file.unlink()
    assert count(rows, TargetSettings(layers=(1,), size=32)) == 1


def test_one_expert_alone_is_found_again(tmp_path):
    model, rows = model_of(tmp_path / "models", "BertForSequenceClassification", "bert", count=1), {"a": rows_of(32)}
    batching = Batching(rows=None, held_out=0.0, batch_size=None)
    how = Learning(
        optimizer=lambda parameters: torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe"),
        feasible=Unbounded(),
        batching=batching,
        trainer={"max_steps": 12, "enable_progress_bar": False, "accelerator": "cpu"},
    )
    learned = learn(model, LogitAlignment(), divide(rows, batching, 0), how)
    assert learned.coefficients.item() == pytest.approx(1.0, abs=1e-3)
    assert learned.history[-1]["loss"] < 1e-6


def test_a_layer_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"expected layers from -3 to 2, got 3"):
        choose_layers(3, (3,))
