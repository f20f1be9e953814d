"""The command with optimisers that know their set, with labels, and with experts that have no rows."""

import json
import shutil
from math import nan
from pathlib import Path

import pytest
import yaml
from support.families import TASKS, save_rows

from adamerge import Entropy, cli
from adamerge.merging.coefficients import load_coefficients

HULL = {"class_path": "Simplex", "init_args": {"radius": 1.5, "includes_base": True}}


@pytest.fixture
def fit(text_family, tmp_path, monkeypatch, capsys):
    """Runs merge.yaml with some keys replaced; returns what was printed, and metrics.json."""
    monkeypatch.chdir(shutil.copytree(text_family, tmp_path / "family"))

    def run(*arguments, **changes):
        config = yaml.safe_load(Path("merge.yaml").read_text()) | changes
        Path("changed.yaml").write_text(yaml.safe_dump(config))
        assert cli.main(["fit", "--config", "changed.yaml", "--run_dir", "run", *arguments]) == 0
        return capsys.readouterr().out, json.loads(Path("run/metrics.json").read_text())

    return run


@pytest.mark.parametrize("word", ["FrankWolfe", "SoftFrankWolfe", "ProjectedGradient"])
def test_a_word_is_enough(fit, word):
    said, metrics = fit("--optimizer", word, "--trainer.max_steps", "3", feasible=HULL)
    assert "the optimiser stopped before converging: loss" in said
    sums = load_coefficients(Path("run/coefficients.safetensors")).coefficients.sum(1)
    assert ((sums <= 1.5 + 1e-5) & (sums >= 0)).all()
    looked = metrics["history"][-1]
    assert looked["evaluations"] == metrics["certificate"]["evaluations"] >= 3
    assert ("gap" in looked) is ("FrankWolfe" in word)


def test_options_stand_in_the_file_and_on_the_command_line(fit):
    optimizer = {"class_path": "FrankWolfe", "init_args": {"step_rule": "constant", "variant": "plain"}}
    fit("--optimizer.size", "0.5", "--trainer.max_steps", "1", feasible=HULL, optimizer=optimizer)
    written = yaml.safe_load(Path("run/config.yaml").read_text())["optimizer"]["init_args"]
    assert (written["step_rule"], written["size"]) == ("constant", 0.5)


def test_selected_experts_are_printed_and_written(fit):
    data = {"batch_size": None}
    said, metrics = fit("--grouping", "task", "--init", "0", optimizer="FrankWolfe", feasible=HULL, data=data)
    learned = load_coefficients(Path("run/coefficients.safetensors"))
    assert "selected by Frank-Wolfe" in said
    assert metrics["selections"]
    for selection in metrics["selections"]:
        assert selection["group"] == "model"
        if selection["expert"] != "(base)":
            column = learned.experts.index(selection["expert"])
            assert selection["weight"] == pytest.approx(learned.coefficients[0, column].item() / 1.5, abs=1e-5)
    assert min(selection["first_step"] for selection in metrics["selections"]) == 0


def test_what_the_first_stage_selected_is_kept(fit):
    fit("--trainer.max_steps", "3", chunks={"budget": 2, "first_steps": 2}, optimizer="FrankWolfe", feasible=HULL)
    story = json.loads(Path("run/first_stage/learned.json").read_text())
    groups = load_coefficients(Path("run/first_stage/coefficients.safetensors")).grouping.groups
    assert story["certificate"]["evaluations"] >= 1
    assert {selection["group"] for selection in story["selections"]} <= set(groups)


def test_selections_of_the_first_stage_are_reported_per_chunk(fit):
    watch = {"every": 1, "monitor": "last"}
    _, metrics = fit(
        "--trainer.max_steps", "2", chunks={"budget": 2, "first_steps": 2}, optimizer="FrankWolfe", feasible=HULL,
        watch=watch,
    )  # fmt: skip
    learned = load_coefficients(Path("run/coefficients.safetensors"))
    assert metrics["certificate"]["evaluations"] >= 2
    assert len({selection["group"] for selection in metrics["selections"]}) > 1
    for selection in metrics["selections"]:
        if selection["expert"] != "(base)":
            row, column = (
                names.index(selection[key])
                for names, key in ((learned.grouping.groups, "group"), (learned.experts, "expert"))
            )
            assert selection["weight"] == pytest.approx(learned.coefficients[row, column].item() / 1.5, abs=1e-5)


def test_what_was_selected_after_the_best_iterate_does_not_count(fit):
    _, metrics = fit(
        "--trainer.max_steps", "8", "--grouping", "task", "--init", "0", optimizer="FrankWolfe", feasible=HULL,
        objective="LogitAlignment", watch={"every": 1},
    )  # fmt: skip
    assert 0 < metrics["best_step"] < metrics["history"][-1]["step"]
    assert 0 < max(selection["times"] for selection in metrics["selections"]) <= metrics["best_step"]


def test_a_loss_that_is_no_number_ends_without_a_traceback(text_family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(text_family, tmp_path / "family"))
    config = yaml.safe_load(Path("merge.yaml").read_text())
    config |= {"optimizer": "LBFGSB", "objective": "Entropy", "data": {"batch_size": None, "held_out": 0}}
    monkeypatch.setattr(Entropy, "__call__", lambda self, outputs, batch, targets: outputs.logits.sum() * nan)
    Path("changed.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["fit", "--config", "changed.yaml", "--run_dir", "run"]) == cli.BAD_INPUT
    assert "error: step 0:" in capsys.readouterr().err


def test_quasi_newton_on_all_rows(fit):
    said, metrics = fit("--optimizer", "LBFGSB", data={"batch_size": None}, watch={"every": 5, "monitor": "last"})
    assert metrics["history"][-1]["objective"] < metrics["history"][0]["objective"]
    assert metrics["certificate"]["residual"] >= 0
    assert "evaluations" in said


def test_a_preset_is_frank_wolfe(fit):
    fit("--trainer.max_steps", "1", "--method", "frank_wolfe", optimizer="SoftFrankWolfe")
    written = yaml.safe_load(Path("run/config.yaml").read_text())
    assert written["objective"]["class_path"].endswith("LogitAlignment")
    assert written["feasible"]["init_args"] == {"radius": 1.0, "includes_base": True}


def test_an_expert_without_rows_gets_coefficients(fit):
    models = yaml.safe_load(Path("merge.yaml").read_text())["models"]
    del models[1]["calibration"], models[1]["evaluation"]
    said, metrics = fit("--trainer.max_steps", "2", models=models)
    assert "without calibration rows (get coefficients but add no loss): topic" in said
    assert load_coefficients(Path("run/coefficients.safetensors")).experts == TASKS
    assert set(metrics["agreement"]["learned"]) == {"mood", "mean"}
    assert "topic" not in metrics["learned"]
    assert Path("run/merged/topic/config.json").exists()


@pytest.mark.parametrize("objective", ["Entropy", "CrossEntropy"])
def test_labels_are_ignored_unless_they_are_asked_for(fit, objective):
    for number, task in enumerate(TASKS, 1):
        save_rows(Path(f"{task}.jsonl"), 32, number, labels=2 + number % 2)
    said, metrics = fit("--objective", objective, watch={"every": 5, "monitor": "last"})
    assert ("the column 'label' of the calibration rows is ignored" in said) is (objective == "Entropy")
    assert metrics["history"][-1]["objective"] < metrics["history"][0]["objective"]
