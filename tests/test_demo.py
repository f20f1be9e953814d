"""`adamerge demo`, once, through the command: what it leaves is what issue and README promise."""

import json
import re
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoImageProcessor, AutoModelForImageClassification

from adamerge import cli, demo
from adamerge.merging.coefficients import load_coefficients

CANDIDATES = ("base", "expert", "average", "task_arithmetic", "task_arithmetic_tuned", "learned")


@pytest.fixture(scope="module")
def metrics(demo_folder):
    return json.loads((demo_folder / "run" / "metrics.json").read_text())


def test_metrics_hold_every_candidate_and_task(metrics):
    for candidate in CANDIDATES:
        assert set(metrics[candidate]) == {*demo.TASKS, "mean"}
        values = [metrics[candidate][task] for task in demo.TASKS]
        assert metrics[candidate]["mean"] == pytest.approx(np.mean(values))
    assert set(metrics["agreement"]) == {"average", "task_arithmetic", "task_arithmetic_tuned", "centre", "learned"}
    assert metrics["sizes"]["experts"] == 7  # and the base and two finished merges


def test_learning_recovers_what_interference_lost(metrics):
    means = {candidate: metrics[candidate]["mean"] for candidate in CANDIDATES}
    assert means["learned"] > means["task_arithmetic"] + 3
    assert means["learned"] > means["average"] + 1
    assert means["learned"] > means["base"] + 1
    for task in demo.TASKS:
        assert metrics["expert"][task] > metrics["base"][task] + 5
    assert metrics["base"]["upright"] > 50


@pytest.mark.parametrize("task", demo.TASKS)
def test_merged_checkpoint_scores_in_plain_transformers_what_metrics_say(task, demo_folder, metrics):
    place = demo_folder / "run" / "merged" / task
    model, processor = AutoModelForImageClassification.from_pretrained(place), AutoImageProcessor.from_pretrained(place)
    rows = datasets.load_from_disk(demo_folder / "data" / task / "evaluation")
    images = [image.convert("RGB") for image in rows["image"]]
    with torch.no_grad():
        predicted = model(**processor(images, return_tensors="pt")).logits.argmax(-1)
    accuracy = 100 * (predicted == torch.tensor(rows["label"])).float().mean().item()
    assert accuracy == pytest.approx(metrics["learned"][task], abs=100 / len(rows) + 1e-6)  # one row at a tie


def test_another_centre_is_not_measured_as_the_base(demo_folder, metrics, main, tmp_path, monkeypatch):
    monkeypatch.chdir(demo_folder.parent)
    options = ("--method", "task_arithmetic", "--centre", "Isotropic", "--optimizer", "null", "--trainer.max_steps", 0)
    code, _, complaint = main("fit", "--config", "demo/demo.yaml", *options, "--run_dir", tmp_path / "run")
    assert (code, complaint) == (0, "")
    centred = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {key: centred[key] for key in ("base", "expert")} == {key: metrics[key] for key in ("base", "expert")}
    assert centred["learned"] != centred["base"]


def test_run_directory_is_complete(demo_folder):
    left = {file.name for file in (demo_folder / "run").iterdir()}
    promised = {"config.yaml", "coefficients.safetensors", "coefficients.png", "learning.png", "metrics.json"}
    assert promised | {"recipe.json", "merged", "checkpoints"} <= left
    table = load_coefficients(demo_folder / "run" / "coefficients.safetensors")
    assert table.experts == (*demo.TASKS, "base", "Isotropic", "Wudi")


def test_rows_of_calibration_and_evaluation_are_disjoint_and_the_former_unlabeled(demo_folder, demo_training):
    upright, labels = demo._digits(demo_training.seed)
    end = demo_training.many + demo_training.calibration
    for task, alter in demo.TASKS.items():
        calibration, evaluation = (
            datasets.load_from_disk(demo_folder / "data" / task / part) for part in ("calibration", "evaluation")
        )
        assert calibration.column_names == ["image"]
        assert len(calibration) == demo_training.calibration
        assert len(evaluation) == len(labels) - end
        assert evaluation["label"] == labels[end:].tolist()
        assert np.array_equal(np.asarray(evaluation[0]["image"]), alter(upright[end : end + 1])[0])


def test_second_demo_in_the_same_folder_is_refused(demo_folder, capsys):
    before = sorted(demo_folder.rglob("*"))
    assert cli.main(["demo", "--folder", str(demo_folder)]) == 2
    assert "run: already exists" in "".join(capsys.readouterr().err.split("\n"))
    assert sorted(demo_folder.rglob("*")) == before


def test_second_fit_into_the_same_run_is_refused(demo_folder, capsys):
    assert cli.main(["fit", "--config", str(demo_folder / "demo.yaml")]) == 2
    assert "already exists" in capsys.readouterr().err


def test_finished_models_are_used_again_and_incomplete_ones_are_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "TRAINING", demo.Training(width=8, base_steps=2, expert_steps=2, many=64))
    monkeypatch.setattr(demo, "train", _break)
    with pytest.raises(RuntimeError, match="broken"):
        demo.prepare(tmp_path / "demo", Console(quiet=True))
    assert sorted(file.name for file in (tmp_path / "demo").iterdir()) == ["data"]
    monkeypatch.undo()
    (tmp_path / "demo" / "models").mkdir()
    given = []
    assert demo.demo(tmp_path / "demo", lambda words: given.extend(words) or 0, Console()) == 0
    assert given == ["--config", str(tmp_path / "demo" / "demo.yaml")]
    assert not list((tmp_path / "demo" / "models").iterdir())
    assert "are in " in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("code", [0, cli.INTERRUPTED])
def test_it_says_what_will_happen_and_ends_with_the_report(tmp_path, monkeypatch, capsys, code):
    folder, done = tmp_path / "demo", []
    monkeypatch.setattr(demo, "prepare", lambda folder, console: done.append(capsys.readouterr().out) or folder)
    assert demo.demo(folder, lambda words: done.append(words) or code, Console()) == code
    before, words = done
    assert words == ["--config", str(folder)]
    assert re.search(rf"4 experts .*{', '.join(demo.TASKS)}.* are trained", before)
    assert re.search(r"(?s)256 unlabeled digits.*641 other digits.*about a minute", before)
    assert f"written to {folder}, the result to {folder}/run." in before
    assert capsys.readouterr().out.splitlines() == ([f"report: {folder}/run/report.html"] if code == 0 else [])


def test_training_is_deterministic(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAINING", demo.Training(width=8, base_steps=3, expert_steps=3, many=64))
    weights = []
    for name in ("one", "other"):
        torch.rand(1)
        demo.prepare(tmp_path / name, Console(quiet=True))
        weights.append((tmp_path / name / "models" / "inverted" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_configuration_in_configs_is_the_one_the_demo_writes(demo_folder):
    text = (Path(__file__).parent.parent / "configs" / "demo.yaml").read_text(encoding="utf-8")
    assert text == demo.CONFIG
    written = yaml.safe_load((demo_folder / "demo.yaml").read_text(encoding="utf-8"))
    assert written == yaml.safe_load(text.replace("demo/", f"{demo_folder}/"))
    assert [Path(model["model"]).name for model in written["models"]] == list(demo.TASKS)


def test_missing_scikit_learn_is_reported_with_its_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert cli.main(["demo", "--folder", str(tmp_path / "demo")]) == 2
    assert 'pip install "adamerge[demo]"' in "".join(capsys.readouterr().err.split("\n"))
    assert not (tmp_path / "demo").exists()


def _break(*_):
    raise RuntimeError("broken")
