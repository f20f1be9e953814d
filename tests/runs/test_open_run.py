"""A finished run is exported and measured once more, from anywhere; one that is not finished is not."""

import json
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from support.families import configuration, listing, write
from support.processes import Strike, run

from adamerge import cli


def test_export_and_evaluate_of_a_finished_run(in_finished, main):
    code, said, complaint = main("export", "run", "again/deeper", "--out_dtype", "bfloat16")
    assert (code, complaint) == (0, "")
    assert "mood: again/deeper/mood" in said
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained("again/deeper/mood")
    assert loaded.dtype == torch.bfloat16
    assert main("export", "run", "exact")[0] == 0
    first, second = (load_file(f"{place}/model.safetensors") for place in ("run/merged", "exact"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    code, _, complaint = main("export", "run", "exact")
    assert code == cli.BAD_INPUT
    assert "exact: exists already" in complaint
    before = json.loads(Path("run/metrics.json").read_text())
    code, said, complaint = main("evaluate", "run")
    assert (code, complaint) == (0, "")
    assert "learned" in said
    assert json.loads(Path("run/metrics.json").read_text()) == before


def test_a_run_is_used_from_another_directory(family, main, monkeypatch, tmp_path):
    config = configuration()
    config["models"][0]["calibration"] = {"path": "mood.jsonl", "rows": 24}
    config["models"][1]["model"] = str(family / "topic")
    strike = Strike("adamerge.runs.fit.save_coefficients")
    command = ["fit", "--config", write(config), "--run_dir", "deep/../run"]
    (family / "deep").mkdir()
    assert run(command, family, family / "log.txt", strike) == -strike.number
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    code, _, complaint = main("fit", "--config", "../family/run/config.yaml", "--ckpt_path", "last")
    assert (code, complaint) == (0, "")
    assert main("export", "../family/run", "out")[0] == 0
    assert main("evaluate", "../family/run")[0] == 0
    assert transformers.AutoModelForSequenceClassification.from_pretrained("out/mood").num_labels
    assert [place.name for place in elsewhere.iterdir()] == ["out"]
    recipe = json.loads((family / "run/recipe.json").read_text())
    assert recipe["base"]["source"] == str(family / "base")
    assert recipe["experts"]["mood"]["source"] == str(family / "mood")
    again = yaml.safe_load(recipe["config"])
    assert again["models"][0]["calibration"]["path"] == str(family / "mood.jsonl")
    assert again["models"][1]["evaluation"] == str(family / "topic_test.jsonl")
    assert main("fit", "--config", write(again, "again.yaml"), "--run_dir", "again")[0] == 0
    first, second = (load_file(f"{place}/coefficients.safetensors") for place in (family / "run", "again"))
    assert torch.equal(first["coefficients"], second["coefficients"])


@pytest.mark.parametrize("command", [("export", "run", "out"), ("evaluate", "run")])
def test_a_run_that_is_not_finished(family, main, command):
    code, _, complaint = main(*command)
    assert code == cli.BAD_INPUT
    assert "run/config.yaml: there is no such file" in complaint
    strike = Strike("adamerge.runs.fit.save_coefficients")
    assert (
        run(["fit", "--config", "merge.yaml", "--run_dir", "run"], family, family / "log.txt", strike) == -strike.number
    )
    before = listing(family)
    code, _, complaint = main(*command)
    assert code == cli.BAD_INPUT
    assert "run: this run is not finished" in complaint
    assert "adamerge fit --config run/config.yaml --ckpt_path last" in complaint
    assert listing(family) == before
