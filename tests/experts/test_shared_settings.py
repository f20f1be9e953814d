"""A merge computes with the settings of config.json that its experts share, and with the base's where they differ."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from support.families import VISION, build, save_family, save_speaking_family

from adamerge import Expert, Merge
from adamerge.results.readable_config import with_former_rope, without_former_rope
from adamerge.results.whose_files import plan_of
from adamerge.runs.build_model import open_experts
from adamerge.runs.read_config import merge_config

TASKS = ("mood", "topic")
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}


def opened():
    return open_experts(merge_config({"base_model": "base", "models": [{"model": task} for task in TASKS]}))


def change(folder, **settings):
    file = Path(folder, "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_speaking_family(tmp_path_factory.mktemp("speaking"), "LlamaForCausalLM", "llama")


@pytest.fixture
def pool(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(saved, tmp_path / "pool"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("former", [{}, {"rope_theta": 77.0, "rope_scaling": {"rope_type": "dynamic", "factor": 9.0}}])
def test_the_export_computes_as_its_experts_do(pool, former):
    file = Path("base/config.json")
    config = json.loads(file.read_text())
    config |= former and {"rope_parameters": None}
    file.write_text(json.dumps({key: value for key, value in {**config, **former}.items() if value is not None}))
    for task in TASKS:
        change(task, rope_parameters=LINEAR)
    result = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic").learn()
    done = result.export("out")
    assert {*done.checkpoints.values()} == {done.folder}
    written = json.loads(Path("out/config.json").read_text())
    assert (written["rope_theta"], written["rope_scaling"]) == (10000.0, {"rope_type": "linear", "factor": 4.0})
    ids = torch.arange(4, 36).reshape(2, 16)
    model = transformers.AutoModelForCausalLM.from_pretrained("out").eval()
    with torch.no_grad():
        found = model(ids).logits
        expected = result.module("mood").eval()(ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert "rope_parameters of config.json of mood, topic" in "\n".join(plan_of(result.model.experts).notes)


COMPUTED = {"rope_parameters", "max_position_embeddings", "hidden_act", "rms_norm_eps"}
TABLE = [  # settings of one expert, of the other, and what the merge takes
    ({"rope_parameters": LINEAR}, {"rope_parameters": LINEAR}, {"rope_parameters"}),
    ({"max_position_embeddings": 999}, {"max_position_embeddings": 999}, {"max_position_embeddings"}),
    ({"hidden_act": "gelu", "rms_norm_eps": 0.5}, {"hidden_act": "gelu"}, {"hidden_act"}),
    ({"max_position_embeddings": 999}, {}, set()),
    ({"rope_parameters": LINEAR}, {"rope_parameters": {**LINEAR, "factor": 2.0}}, set()),
    ({"id2label": {"0": "a"}, "attention_dropout": 0.5, "use_cache": False}, {}, set()),
]


@pytest.mark.parametrize(("mood", "topic", "taken"), TABLE)
def test_what_all_experts_share_is_taken_and_nothing_else(pool, mood, topic, taken):
    change("mood", **mood)
    change("topic", **topic)
    experts = opened()
    assert {*plan_of(experts).settings} == taken
    warned = "\n".join(experts.warnings)
    unlike = {key for key in {**mood, **topic} if mood.get(key) != topic.get(key)} & COMPUTED
    assert [key for key in unlike if key not in warned] == []
    assert [key for key in {**mood, **topic} if key not in unlike and key in warned] == []


def test_former_keys_do_not_contradict_what_was_replaced():
    text = {"model_type": "llama", "rope_theta": 1.0, "rope_scaling": {}, "rope_parameters": dict(LINEAR)}
    both = {"model_type": "llava", "text_config": text}
    found = without_former_rope(both, ["text_config.rope_parameters"])
    assert found["text_config"] == {"model_type": "llama", "rope_parameters": LINEAR}
    assert without_former_rope(both, ["rope_parameters"]) == both
    again = with_former_rope(found)[0]["text_config"]
    assert (again["rope_theta"], again["rope_scaling"]) == (10000.0, {"rope_type": "linear", "factor": 4.0})


def test_the_size_of_a_table_that_experts_keep_stays_the_bases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [build("BertForSequenceClassification", "bert", seed, max_position_embeddings=32) for seed in (1, 2)]
    save_family(tmp_path, build("BertModel", "bert", 0), dict(zip(TASKS, made, strict=True)))
    models = [{"model": task} for task in TASKS]
    kept = {"base_model": "base", "models": models, "parameters": {"head": ["*position_embeddings*", "classifier*"]}}
    assert plan_of(open_experts(merge_config(kept))).settings == {}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_experts_of_another_resolution_keep_their_positions(tmp_path, monkeypatch):
    """The number of positions is computed of image_size, which is the size of no tensor."""
    monkeypatch.chdir(tmp_path)
    size = {"image_size": 24, "num_labels": 3}
    save_family(
        tmp_path,
        build("ViTModel", "vit", 0),
        {task: transformers.ViTForImageClassification(transformers.ViTConfig(**VISION | size)) for task in TASKS},
    )
    parameters = {"head": ["*position_embeddings*", "classifier*"]}
    result = Merge("base", [Expert(task) for task in TASKS], method="average", parameters=parameters).learn()
    places = result.export("out").checkpoints
    images = torch.randn(2, 3, 24, 24)
    for task in TASKS:
        model = transformers.ViTForImageClassification.from_pretrained(places[task]).eval()
        with torch.no_grad():
            assert torch.allclose(model(images).logits, result.module(task).eval()(images).logits, atol=1e-5)
    assert transformers.ViTModel.from_pretrained("out").config.image_size == 16
    assert "image_size" not in str(result.model.experts.warnings)
