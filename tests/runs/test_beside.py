"""Models beside the experts get coefficients too: the base, and finished merges."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import configuration, write
from support.networks import BASE, NETS, merge

from adamerge.merging.coefficients import load_coefficients
from adamerge.merging.grouping import tensor_wise
from adamerge.runs.learning_settings import learning_notes
from adamerge.runs.read_config import merge_config, read_config
from adamerge.runs.start import start_of

MODELS = {"base_model": "base", "models": [{"model": "mood"}, {"model": "topic"}]}
LEARNS = {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.05}}, "trainer": {"max_steps": 6}}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_the_merge_is_the_sum_over_experts_and_what_is_beside_them():
    learned = merge(centre="Wudi", beside=["base", "Isotropic"], watch={"every": 6}, **LEARNS).learn()
    assert learned.experts == (*NETS, "base", "Isotropic")
    finished = {
        name: merge(method=name, watch={}, trainer={}, optimizer=None).learn().module("task1").state_dict()
        for name in ("wudi", "isotropic")
    }
    models = [*(net.state_dict() for net in NETS.values()), BASE.state_dict(), finished["isotropic"]]
    coefficients = learned.coefficients.double()
    assert (coefficients.abs() > 1e-3).any(0).all(), "every column has moved"
    merged = learned.module("task1").state_dict()
    for name, rows in learned.model.grouping.rows.items():
        centre = finished["wudi"][name].double()
        expected = centre + sum(
            c * (model[name].double() - centre) for c, model in zip(coefficients[rows[0]], models, strict=True)
        )
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_run_stores_the_merges_and_its_export_reads_them(family, main):
    config = configuration(method="expert_merging", centre="Wudi", beside=["RegMean", "base", "Wudi"])
    config["models"] = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    config |= {**LEARNS, "trainer": {"max_steps": 3, "accelerator": "cpu"}}
    config["watch"] = {"every": 3}
    code, told, _ = main("fit", "--config", write(config), "--run_dir", "run")
    assert code == 0
    found = load_coefficients(Path("run/coefficients.safetensors"))
    assert found.experts == ("mood", "topic", "RegMean", "base", "Wudi")
    assert [name for name, used in zip(found.experts, found.coefficients.any(0), strict=True) if not used] == ["Wudi"]
    assert "note: beside: Wudi is the centre itself, so its coefficients change nothing" in told
    assert {file.name for file in Path("run/beside").iterdir()} >= {"0_RegMean.safetensors", "2_Wudi.safetensors"}
    before = Path("run/beside/0_RegMean.safetensors").stat().st_mtime_ns
    code, _, complaint = main("export", "run", "again")
    assert code == 0, complaint
    assert Path("run/beside/0_RegMean.safetensors").stat().st_mtime_ns == before
    for file in Path("run/merged").glob("*.safetensors"):
        written, again = load_file(file), load_file(Path("again") / file.name)
        assert all(torch.equal(tensor, again[name]) for name, tensor in written.items())
    saved = read_config(Path("run/config.yaml"), lambda note: None)
    assert saved.models_beside == merge_config(config).models_beside


@pytest.mark.parametrize(
    ("changes", "columns", "said"),
    [
        ({"centre": "Wudi"}, ("mood", "topic", "base", "Ties"), ""),
        ({"centre": None}, ("mood", "topic", "Ties"), "1 of 2 models get no coefficient, because the base is the"),
        ({"task_vectors": "Wudi"}, ("merged",), "2 of 2 models get no coefficient, because the task vectors are those"),
        ({"grouping": "component", "chunks": None, "centre": None}, ("mood", "topic"), "coefficients to factors"),
        ({"init": "closed_form"}, ("mood", "topic"), "init: closed_form finds the coefficients of experts alone"),
    ],
)
def test_what_gets_no_coefficient_is_said(changes, columns, said):
    config = merge_config({**MODELS, "beside": ["base", "Ties"], **changes})
    assert len(config.columns) == len(columns)
    assert config.columns == columns or config.task_vectors is not None
    told = [note for note in learning_notes(config, ["a", "b"]) if "beside" in note]
    assert said in "".join(told)
    assert bool(told) == bool(said)


def test_a_task_called_base_keeps_its_name():
    models = [{"model": "somewhere/base"}, {"model": "topic"}]
    config = merge_config({"base_model": "other", "models": models, "centre": "Wudi", "beside": ["base"]})
    assert config.columns == ("base", "topic", "base (beside)")


def test_merges_of_one_class_are_told_apart():
    one, other = ({"class_path": "Wudi", "init_args": {"ridge": ridge}} for ridge in (0.1, 0.5))
    config = merge_config({**MODELS, "centre": "Isotropic", "beside": [one, "base", other, one]})
    assert config.columns == ("mood", "topic", "Wudi", "base", "Wudi 2")
    assert config.models_beside["Wudi 2"].ridge == 0.5


def test_what_is_beside_starts_at_nothing():
    config = merge_config({**MODELS, "method": "expert_merging", "centre": "Wudi", "init": 0.2, "beside": ["base"]})
    assert start_of(config, tensor_wise(["a", "b"])).tolist() == [[pytest.approx(0.2)] * 2 + [0.0]] * 2
    mean = merge_config({**MODELS, "method": "expert_merging", "init": "average", "beside": ["Wudi"]})
    assert start_of(mean, tensor_wise(["a"])).tolist() == [[0.5, 0.5, 0.0]]
