"""Kept targets equal online ones, and a changed or damaged file is noticed."""

import pytest
import torch
from support.families import build, save_family

from adamerge.calibration.agreement import hold_out, predictions
from adamerge.calibration.target_settings import target_settings
from adamerge.calibration.targets import TargetSettings, compute_targets
from adamerge.data.rows import TensorRows
from adamerge.data.settings import Batching
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.from_modules import from_modules
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.learning.learn import divide, learn
from adamerge.learning.settings import Learning
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.forward_pass import choose_layers
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import HiddenAlignment, LogitAlignment, Sum
from adamerge.optim.feasible_sets import Unbounded
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
    settings = TargetSettings(layers=("middle", -1))
    compute_targets(model, {"a": rows}, settings, 4, tmp_path / "kept")
    kept = compute_targets(model, {"a": rows}, settings, 4, tmp_path / "kept")["a"]
    batch = rows.batch([5, 0, 3])
    online = model.expert("a")(batch.inputs, settings.layers)
    found = kept(batch, online)
    counts = batch.positions
    logits = (found.logits, online.logits) if family == "bert" else (found.logits[counts], online.logits[counts])
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(kept.predictions(batch), predictions(online.logits, None if family == "bert" else counts))
    for state, expected in zip(found.hidden, online.hidden, strict=True):
        torch.testing.assert_close(state[counts], expected[counts], rtol=2e-3, atol=2e-3)  # half precision


@pytest.mark.parametrize("spread", [0.02, 0.5, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_most_likely_tokens_suffice_for_a_large_vocabulary(tmp_path, spread, temperature):
    """Within a thousandth of a nat of the whole divergence, whether the expert is unsure of its words or sure."""
    base, expert = (build("LlamaForCausalLM", "llama", seed, vocab_size=5000) for seed in (0, 1))
    with torch.no_grad():
        for parameter, start in zip(expert.parameters(), base.parameters(), strict=True):
            parameter.mul_(0.3).add_(start)
        for model in (base, expert):
            model.lm_head.weight.mul_(spread / 0.2)
    experts = from_modules(base, {"a": expert})
    vectors = task_vectors(experts, inspect_weights(experts).changed)
    model, rows = MergedModel(experts, vectors, task_wise(tuple(vectors.shapes))), rows_of(12)
    objective = LogitAlignment(temperature=temperature)
    compute_targets(model, {"a": rows}, target_settings(objective), 32, tmp_path)
    kept = compute_targets(model, {"a": rows}, target_settings(objective), 32, tmp_path)["a"]
    batch = rows.batch([3, 0, 7, 11, 5])

    def step(targets_of):
        work = {"a": [Work(batch, lambda outputs, batch: objective(outputs, batch, targets_of(batch, outputs)))]}
        losses, gradient, _ = execution_of(model).losses_and_gradient(torch.tensor([[0.4]]), work)
        return losses["a"], gradient

    whole = model.expert("a")(batch.inputs)
    assert torch.equal(kept.predictions(batch), predictions(whole.logits, batch.positions))
    assert 64 <= kept(batch, whole).top.shape[-1] <= 5000
    (found, one), (expected, two) = step(kept), step(lambda batch, outputs: whole)
    assert found.item() == pytest.approx(expected.item(), abs=1e-3)
    assert found <= expected + 1e-5
    assert torch.isfinite(one).all()
    torch.testing.assert_close(one, two, rtol=0.02, atol=2e-3)


def test_objectives_that_need_all_classes_get_them():
    mixed = Sum([LogitAlignment(temperature=1.0), LogitAlignment(temperature=2.0)])
    nested = Sum([HiddenAlignment([1]), Sum([LogitAlignment(temperature=3.0, tail=0.01)])])
    assert target_settings(LogitAlignment("mse")).whole
    assert target_settings(mixed).whole
    assert target_settings(nested) == TargetSettings((1,), False, 0.01, 3.0)


def test_a_second_run_reuses_and_a_change_is_detected(tmp_path, monkeypatch):
    model, rows, folder = (
        model_of(tmp_path / "models", "BertForSequenceClassification", "bert"),
        rows_of(),
        tmp_path / "kept",
    )
    runs = []
    expert = model.expert
    monkeypatch.setattr(model, "expert", lambda task: runs.append(task) or expert(task))

    def count(rows, settings, size=32):
        runs.clear()
        compute_targets(model, {"a": rows}, settings, size, folder)
        return len(runs)

    settings = TargetSettings()
    assert count(rows, settings) == 1
    assert count(rows, settings) == 0
    assert count(rows, settings, 2) == 1
    assert count(rows_of(seed=1), settings) == 1
    assert count(rows, TargetSettings(layers=(1,))) == 1
    (file,) = folder.glob("*.safetensors")
    good = file.read_bytes()
    file.write_bytes(good[:-4] + bytes(b ^ 1 for b in good[-4:]))
    assert count(rows, TargetSettings(layers=(1,))) == 1
    assert file.read_bytes() == good
    file.write_bytes(good[:50])
    assert count(rows, TargetSettings(layers=(1,))) == 1
    file.unlink()
    assert count(rows, TargetSettings(layers=(1,))) == 1


def test_predictions_are_those_of_the_targets_and_no_expert_runs_again(tmp_path, monkeypatch):
    model, rows = model_of(tmp_path / "models", "LlamaForCausalLM", "llama"), {"a": rows_of(7)}
    targets = compute_targets(model, rows, TargetSettings(), 4, None)
    alone = hold_out(model, rows, 3).predicted["a"]
    monkeypatch.setattr(model, "expert", None)
    for one, other in zip(hold_out(model, rows, 3, targets).predicted["a"], alone, strict=True):
        assert torch.equal(one, other)


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
    with pytest.raises(ConfigError, match=r"expected layers from -3 to 2, found 3"):
        choose_layers(3, (3,))
