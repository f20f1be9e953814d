"""A pool of adapters learns and exports what the same pool as complete checkpoints does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import metadata_load
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support.families import save_text_family
from transformers import AutoModelForSequenceClassification

from adamerge import ConfigError, Expert, Merge, load_coefficients
from adamerge.cli import main
from adamerge.runs.build_model import open_experts

TASKS = ("mood", "topic", "speed")
OPTIONS = {
    "mood": {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    "topic": {"target_modules": ["query", "dense"], "use_rslora": True, "r": 2, "task_type": "SEQ_CLS"},
    "speed": {"target_modules": ["key"], "use_dora": True, "task_type": "SEQ_CLS"},
}
QUICK = {"data": {"batch_size": 4}}
STEPS = {"trainer": {"max_steps": 3}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Adapters of three kinds over the base in `base`, and each of them merged by PEFT, in `dense/TASK`."""
    folder = save_text_family(tmp_path_factory.mktemp("pool"), TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_adapters()
    return folder


@pytest.fixture
def pool(made, tmp_path, monkeypatch):
    """A copy of all that, as the current directory."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "pool"))
    return tmp_path / "pool"


def save_adapters():
    for seed, task in enumerate(TASKS):
        labels = AutoModelForSequenceClassification.from_pretrained(task).num_labels
        torch.manual_seed(seed)
        start = AutoModelForSequenceClassification.from_pretrained("base", num_labels=labels)
        model = get_peft_model(start, LoraConfig(lora_alpha=8, **{"r": 4, **OPTIONS[task]}))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(f"adapters/{task}")
        plain = AutoModelForSequenceClassification.from_pretrained("base", num_labels=labels)
        merged = PeftModel.from_pretrained(plain, f"adapters/{task}").merge_and_unload()
        merged.save_pretrained(f"dense/{task}")


def write_yaml(name, settings):
    Path(name).write_text(yaml.safe_dump(settings))


def learned(kind, **more):
    experts = [Expert(f"{kind}/{task}", calibration=f"{task}.jsonl") for task in TASKS]
    steps = {} if more["method"] == "task_arithmetic" else STEPS
    return Merge("base", experts, **QUICK, **steps, **more).learn()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "adamerging"},
        {"method": "adamerging", "init": "closed_form"},
        {"method": "expert_merging"},
        {"method": "expert_merging++", "chunks": {"first_steps": 2}},
    ],
    ids=lambda options: " ".join([options["method"], options.get("init", "")]),
)
def test_adapters_learn_the_coefficients_of_dense_experts(pool, options):
    found, expected = (learned(kind, **options) for kind in ("adapters", "dense"))
    assert found.groups == expected.groups
    torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=1e-3, atol=1e-4)


def test_the_export_of_adapters_is_that_of_dense_experts(pool):
    for kind in ("adapters", "dense"):
        learned(kind, method="task_arithmetic").export(f"merged/{kind}")
    for task in TASKS:
        found, expected = (
            AutoModelForSequenceClassification.from_pretrained(f"merged/{kind}/{task}").state_dict()
            for kind in ("adapters", "dense")
        )
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_pool_may_mix_adapters_and_checkpoints(pool):
    shutil.move("dense/topic", "adapters/topic_dense")
    experts = [
        Expert(place, calibration=f"{task}.jsonl", task=task)
        for place, task in (("adapters/mood", "mood"), ("adapters/topic_dense", "topic"), ("adapters/speed", "speed"))
    ]
    mixed = Merge("base", experts, method="adamerging", **QUICK, **STEPS).learn()
    torch.testing.assert_close(
        mixed.coefficients, learned("adapters", method="adamerging").coefficients, rtol=1e-3, atol=1e-4
    )


def test_a_coefficient_per_rank_component(pool, capfd):
    """Learned from the command line, with one component for what has no factors, and exported again from the run."""
    shutil.move("dense/topic", "adapters/topic_dense")
    models = [
        {"model": place, "task": task, "calibration": f"{task}.jsonl"}
        for place, task in (("adapters/mood", "mood"), ("adapters/topic_dense", "topic"), ("adapters/speed", "speed"))
    ]
    settings = {"base_model": "base", "models": models, "method": "adamerging", "grouping": "component"}
    settings["watch"] = {"monitor": "last"}
    write_yaml("merge.yaml", {**settings, **QUICK, **STEPS})
    assert main(["fit", "--config", "merge.yaml", "--run_dir", "run"]) == 0
    out = capfd.readouterr().out
    assert "grouping: component: " in out
    assert "of the tensors that topic changes have no factors, so each has one component" in out
    table = load_coefficients("run/coefficients.safetensors")
    ranked = [name for name, rows in table.grouping.rows.items() if len(rows) > 1]
    assert {len(table.grouping.rows[name]) for name in ranked} == {4}
    assert all("query.weight" in name or "value.weight" in name for name in ranked)
    moved = (table.coefficients - 0.3).abs()
    rows = table.grouping.rows[ranked[0]]
    assert (moved[rows, 0] > 0).all()  # every component of mood's factors has learned
    assert (moved[rows, 1] > 0).tolist() == [True, False, False, False]  # topic has no factors, so one component
    assert main(["export", "run", "again"]) == 0
    for one in Path("run/merged").glob("*.safetensors"):
        first, second = (load_file(place) for place in (one, Path("again") / one.name))
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"method": "ties"}, "found task_vectors: Ties"),
        ({"method": "expert_merging", "centre": "Isotropic"}, "found centre: Isotropic"),
        ({"method": "adamerging", "init": "closed_form"}, "cannot start from init: closed_form"),
        (
            {"method": "expert_merging++", "centre": None},
            "chunks: does not go with grouping: expected grouping: tensor, found component",
        ),
    ],
)
def test_components_need_the_factors_as_they_are(pool, more, words):
    experts = [Expert(f"adapters/{task}", calibration=f"{task}.jsonl") for task in TASKS]
    with pytest.raises(ConfigError, match=words):
        Merge("base", experts, grouping="component", **QUICK, **more).learn()


def test_components_need_an_adapter(pool):
    experts = [Expert(f"dense/{task}", calibration=f"{task}.jsonl") for task in TASKS]
    with pytest.raises(ConfigError, match="expected at least one LoRA adapter with factors, found none"):
        Merge("base", experts, grouping="component", method="adamerging", **QUICK).learn()


def test_an_adapter_over_a_checkpoint_in_every_door(pool):
    """YAML, Python and, in one folder, without a key: the merge of one expert is the checkpoint with the adapter."""
    options = json.loads(Path("adapters/mood/adapter_config.json").read_text())
    Path("adapters/mood/adapter_config.json").write_text(json.dumps({**options, "base_model_name_or_path": "mood"}))
    full = AutoModelForSequenceClassification.from_pretrained("mood")
    merged = PeftModel.from_pretrained(full, "adapters/mood").merge_and_unload().state_dict()
    shutil.copytree("mood", "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(f"adapters/mood/{name}", f"both/{name}")
    options = {"method": "task_arithmetic", "init": 1.0, "grouping": "task"}
    doors = {
        "python": [Expert("mood", adapter="adapters/mood")],
        "mapping": [{"model": "mood", "adapter": "adapters/mood"}],
        "folder": [Expert("both", task="mood")],
    }
    for experts in doors.values():
        weights = open_experts(Merge("base", experts, **options).config).tasks["mood"].weights
        for name in weights.headers:
            torch.testing.assert_close(weights[name], merged[name], rtol=1e-5, atol=1e-6)
    write_yaml("merge.yaml", {"base_model": "base", "models": doors["mapping"], **options})
    assert main(["fit", "--config", "merge.yaml", "--run_dir", "run"]) == 0
    found = AutoModelForSequenceClassification.from_pretrained("run/merged/mood").state_dict()
    for name, value in merged.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    hashed = json.loads(Path("run/recipe.json").read_text())["experts"]["mood"]["sha256"]
    assert {"adapter_model.safetensors", "model/model.safetensors", "model/config.json"} <= hashed.keys()
    assert main(["export", "run", "again"]) == 0


def test_an_adapter_that_was_exported_has_a_card_and_is_replayed(pool, capfd):
    (pool / "adapters/mood/README.md").write_text("---\nbase_model: org/base\n---\n")
    models = [{"model": f"adapters/{task}", "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    settings = {"base_model": "base", "models": models, "method": "task_arithmetic", "export": "adapter"}
    write_yaml("merge.yaml", settings)
    assert main(["fit", "merge.yaml", "--run_dir", "run"]) == 0
    card = metadata_load("run/merged/mood/README.md")
    assert (card["library_name"], card["base_model"]) == ("peft", ["org/base"])
    assert "AutoPeftModelForSequenceClassification" in Path("run/merged/mood/README.md").read_text()
    shutil.copytree("run", "alone", ignore=shutil.ignore_patterns("merged"))
    assert main(["replay", "alone/recipe.json", "again"]) == 0
    assert "identical: " in capfd.readouterr().out
    assert main(["mergekit", "run", "kit.yaml"]) == 2
    assert "mood, topic are adapters" in capfd.readouterr().err


def test_an_adapter_needs_files_below_it(pool):
    base = AutoModelForSequenceClassification.from_pretrained("base", num_labels=2)
    with pytest.raises(ConfigError, match="Save it with save_pretrained"):
        Merge(base, {"mood": "adapters/mood"}, method="average").learn()
    with pytest.raises(ConfigError, match="expected a path or hub id of an adapter"):
        Expert(base, adapter="adapters/mood", task="mood")
