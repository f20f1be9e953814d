"""Runs and merges of adapters with heads that are exported as adapters again."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support.adapter_pool import assert_same
from transformers import AutoModelForSequenceClassification

from adamerge import Expert, Merge
from adamerge.results.adapter_settings import AdapterExport, adapter_of
from adamerge.runs.open_run import chosen
from adamerge.types import ConfigError


@pytest.fixture
def text_pool(family):
    """The base and adapters of two of the text family's tasks, with heads."""
    for seed, task in enumerate(("mood", "topic")):
        labels = AutoModelForSequenceClassification.from_pretrained(task).num_labels
        torch.manual_seed(seed)
        start = AutoModelForSequenceClassification.from_pretrained("base", num_labels=labels)
        model = get_peft_model(start, LoraConfig(r=2, target_modules=["query", "dense"], task_type="SEQ_CLS"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(f"adapters/{task}")
    return family


def merge(**settings):
    experts = [Expert(f"adapters/{task}", calibration=f"{task}.jsonl") for task in ("mood", "topic")]
    return Merge("base", experts, data={"batch_size": 4}, **settings)


@pytest.mark.parametrize("method", ["regmean", "esm"])
def test_each_task_gets_the_same_factors_and_its_own_head(text_pool, method):
    """RegMean and ESM over adapters are in their span; PEFT and the dense export give the same parameters."""
    result = merge(method=method).learn()
    result.export("dense", dtype="float32")
    exported = result.export("adapter", adapter=True)
    assert set(exported.checkpoints) == {"mood", "topic"}
    factors = {}
    for task, place in exported.checkpoints.items():
        dense = AutoModelForSequenceClassification.from_pretrained(f"dense/{task}").state_dict()
        start = AutoModelForSequenceClassification.from_pretrained("base", num_labels=len(dense["classifier.bias"]))
        found = PeftModel.from_pretrained(start, place).merge_and_unload().state_dict()
        assert found.keys() == dense.keys()
        assert_same(found, {name: value.double() for name, value in dense.items() if value.is_floating_point()})
        tensors = load_file(place / "adapter_model.safetensors")
        factors[task] = {key: value for key, value in tensors.items() if "lora" in key}
        assert json.loads((place / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
    for key, value in factors["mood"].items():
        assert torch.equal(value, factors["topic"][key])


@pytest.mark.parametrize("settings", [{"method": "ties"}, {"centre": "Dare"}, {"method": "feat_cal"}])
def test_transforms_that_leave_the_span_are_refused_before_learning(text_pool, settings):
    with pytest.raises(ConfigError) as refused:
        merge(**settings, export="adapter").learn()
    layer = r"bert\.encoder\.layer\.0\.[\w.]+\.weight"
    found = re.search(
        rf"(task_vectors|centre): \w+ leaves the span .* in {layer}, .* and (\d+) more: (\d+)", str(refused.value)
    )
    assert found
    tensors = load_file("adapters/mood/adapter_model.safetensors")
    assert int(found[3]) == int(found[2]) + 3 == sum("lora_A" in key for key in tensors)


def test_merges_that_leave_the_span_take_no_part_in_a_race_for_the_centre_of_an_adapter(text_pool, main):
    models = [{"model": f"adapters/{task}", "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    centre = {"class_path": "Auto", "init_args": {"merges": ["Ties", "FeatCal", "Isotropic"], "scales": [1.0]}}
    written = {"base_model": "base", "models": models, "centre": centre, "export": "adapter"}
    Path("merge.yaml").write_text(yaml.safe_dump(written | {"trainer": {"max_steps": 1, "accelerator": "cpu"}}))
    code, said, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == 0, complaint
    for name in ("Ties", "FeatCal"):
        assert f"note: centre: {name} takes no part in the race: it leaves the span" in said
    first, *_ = json.loads(Path("run/centre_race.json").read_text())["rounds"]
    assert set(first["divergence"]) == {"average", "task arithmetic at 0.3", "Isotropic × 1"}
    assert Path("run/merged/mood/adapter_config.json").exists()


def test_a_run_writes_an_adapter_measures_it_and_exports_it_anew(text_pool, main):
    models = json.dumps([{"model": f"adapters/{t}", "calibration": f"{t}.jsonl"} for t in ("mood", "topic")])
    settings = ["--method", "task_arithmetic", "--export", "adapter", "--run_dir", "run"]
    code, said, _ = main("fit", "--base_model", "base", "--models", models, *settings)
    assert code == 0
    assert "adapter: LoRA of rank" in said
    assert (text_pool / "run/merged/mood/adapter_config.json").exists()
    metrics = json.loads((text_pool / "run/metrics.json").read_text())
    code, said, _ = main("export", "--run", "run", "--out", "cut", "--max_rank", "1")
    assert code == 0
    assert "max_rank 1: relative error of the change" in said
    full = 100 * metrics["agreement"]["learned"]["mean"]
    assert f"mean {full:.1f} % → " in said


def test_what_a_run_is_exported_as_can_be_changed(text_pool):
    config = merge(export={"max_rank": 4}).config
    assert adapter_of(chosen(config, None, None).export) == AdapterExport(4)
    assert adapter_of(chosen(config, True, 2).export) == AdapterExport(2)
    assert adapter_of(chosen(config, False, None).export) is None
    with pytest.raises(ConfigError, match="max_rank: expected an adapter"):
        chosen(config, False, 2)
    with pytest.raises(ConfigError, match="max_rank: expected 1 or more"):
        merge(export={"max_rank": 0})


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(("asked", "written"), [("adapter", False), ("checkpoint", True)])
def test_a_merge_is_exported_as_either_in_the_dtype_on_disk(text_pool, asked, written, rounding):
    how = {"method": "task_arithmetic", "init": 0.3, "out_dtype": "bfloat16", "rounding": rounding}
    merge(export=asked, **how).learn().export("either", adapter=written)
    merge(export="adapter" if written else "checkpoint", **how).learn().export("other")
    files = sorted(Path("other").rglob("*.safetensors"))
    assert files
    for file in files:
        found, expected = (load_file(Path(place) / file.relative_to("other")) for place in ("either", "other"))
        assert found.keys() == expected.keys()
        assert all(
            found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
        )
