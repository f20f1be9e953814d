"""A run starts from an earlier one by the names of tasks, groups and parameters."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.families import configuration, write

from adamerge import cli
from adamerge.merging.coefficients import COEFFICIENTS, Table, load_coefficients, save_coefficients
from adamerge.merging.grouping import row_blocks, task_wise, tensor_wise
from adamerge.runs.read_config import merge_config
from adamerge.runs.warm_start import start_from, warm_notes, warm_start, without_other_centre
from adamerge.types import ConfigError

ONE = {"base_model": "base", "models": [{"model": "x", "calibration": "x.jsonl"}]}
"""A configuration of one expert."""

SHAPES = {"a": (6, 2), "b": (4,), "c": (8, 3)}


@given(st.permutations(list(SHAPES)), st.permutations(["x", "y", "z"]))
def test_names_count_and_not_places(names, columns):
    then = Table(torch.rand(3, 3), tensor_wise([*SHAPES]), ("x", "y", "z"))
    found = warm_start(then, tensor_wise(names), columns, [9.0] * 3)
    for row, name in enumerate(names):
        for column, expert in enumerate(columns):
            expected = then.coefficients[[*SHAPES].index(name), ["x", "y", "z"].index(expert)]
            assert found.coefficients[row, column] == expected
    assert [*found.new_groups, *found.averaged, *found.new_columns] == []


def test_other_groups_take_the_mean_of_their_rows():
    grouping = row_blocks(SHAPES, 2)
    then = Table(torch.rand(len(grouping), 1), grouping, ("x",))
    found = warm_start(then, tensor_wise(["a", "b", "new"]), ["x", "y"], [0.3, 0.1])
    assert found.coefficients[0, 0] == pytest.approx(float(then.coefficients[grouping.rows["a"]].mean()))
    assert found.coefficients[1, 0] == then.coefficients[grouping.rows["b"][0], 0]
    assert found.coefficients[2].tolist() == pytest.approx([0.3, 0.1])
    assert (found.new_groups, found.averaged, found.new_columns) == (["new"], ["a"], ["y"])
    again = warm_start(then, grouping, ["x"], [0.3])
    assert torch.equal(again.coefficients, then.coefficients)
    whole = warm_start(
        Table(torch.tensor([[0.25]]), task_wise([*SHAPES]), ("x",)), tensor_wise([*SHAPES]), ["x"], [0.3]
    )
    assert whole.coefficients.tolist() == [[0.25]] * 3


def test_a_run_from_an_earlier_one(in_finished, main):
    then = load_coefficients("run/coefficients.safetensors")
    config = configuration(init="run", beside=["Isotropic"])
    shutil.copytree("topic", "fresh")
    config["models"] = [config["models"][1], {"model": "fresh", "calibration": "topic.jsonl"}]
    code, said, complaint = main("fit", write(config), "--run_dir", "next", "--method", "task_arithmetic", *still())
    assert (code, complaint) == (0, "")
    assert f"23 of 23 parameters start from {in_finished}/run" in said
    assert "new, so they start as usual: fresh at 0.3, Isotropic at 0" in said
    assert "not in this merge, so their coefficients are not used: mood" in said
    found = load_coefficients("next/coefficients.safetensors")
    assert torch.equal(found.coefficients[:, 0], then.coefficients[:, 1])
    assert found.coefficients[:, 1].tolist() == pytest.approx([0.3] * 23)
    assert not found.coefficients[:, 2].any()  # what is beside the experts starts at 0
    card = Path("next/merged/README.md").read_text()
    assert "start of the coefficients: the coefficients of an earlier run (run); what is new starts at 0.3" in card
    assert "calibration rows:" not in card  # nothing is learned from them
    shutil.rmtree("run")  # a finished run needs it no more
    for command in ("export", "replay"):
        assert main(command, "next", f"by_{command}")[0] == 0


def test_what_a_run_started_from_is_on_record_and_may_lie_elsewhere(in_finished, main, monkeypatch):
    """Learning goes on, and is redone, from the same coefficients alone."""

    def interrupted(*given, **more):
        raise KeyboardInterrupt

    file = write(configuration(init="run", trainer={"max_steps": 0, "accelerator": "cpu"}))
    with monkeypatch.context() as patch:
        patch.setattr("adamerge.runs.fit.learn_merge", interrupted)
        main("fit", file, "--run_dir", "next")
    shutil.copytree("run", "changed")
    table = load_coefficients("changed/coefficients.safetensors")
    save_coefficients(Path("changed", COEFFICIENTS), table.coefficients + 1, table.grouping, table.experts)
    resume = ("fit", "--config", "next/config.yaml", "--ckpt_path", "last")
    for again, place, moved in ((resume, "run", "second"), (("reproduce", "next"), "second", "third")):
        shutil.move(place, moved)
        complaint = main(*again)[2]
        assert "init: expected the place of what the run was made from" in complaint
        assert "by --init PLACE." in complaint
        complaint = main(*again, "--init", "changed")[2]
        assert f"init ({in_finished}/changed): coefficients.safetensors has other content" in complaint
        complaint = main(*again, "--init", "average")[2]
        assert "init" in complaint
        assert "average" in complaint
        code, _, complaint = main(*again, "--init", moved)
        assert (code, complaint) == (0, "")
    recipe = json.loads(Path("next/recipe.json").read_text())
    assert recipe.pop("start")["source"] == f"{in_finished}/second"
    Path("next/recipe.json").write_text(json.dumps(recipe))  # as of a version that hashed no start
    assert main("reproduce", "next", "--init", "third")[0] == 0


@pytest.mark.parametrize("written", ["auto: Wudi × 0.7", "auto", "Auto", None])
def test_coefficients_over_the_centre_of_a_race_are_a_start_however_it_was_written(written, tmp_path):
    save_coefficients(tmp_path / COEFFICIENTS, torch.tensor([[0.7]]), tensor_wise(["a"]), ["x"], centre=written)
    config = merge_config({**ONE, "init": tmp_path, "centre": "auto", "beside": []})
    assert start_from(config, tensor_wise(["a"])).tolist() == [[pytest.approx(0.7)]]


def test_the_centre_that_another_race_found_is_said(tmp_path, monkeypatch):
    """Coefficients over one finished merge are no start over another."""
    monkeypatch.chdir(tmp_path)
    model = {"model": "mood", "calibration": "mood.jsonl"}
    config = merge_config({"base_model": "base", "models": [model], "init": "./run", "centre": "auto"})
    for folder, winner in (("run", "Wudi × 0.7"), ("same", "Wudi × 0.7"), ("other", "Wudi × 1")):
        Path(folder).mkdir()
        Path(folder, "centre_race.json").write_text(json.dumps({"winner": winner}))
    assert without_other_centre(config, Path("same/centre_race.json")) == (config, [])
    wudi = {"class_path": "Auto", "init_args": {"merges": [{"class_path": "Wudi", "init_args": {"ridge": 0.5}}]}}
    Path("run/config.yaml").write_text(yaml.safe_dump({"centre": wudi}))
    found, (line,) = without_other_centre(config, Path("same/centre_race.json"))
    assert "over the centre Wudi × 0.7 with ridge 0.5, and the race has found Wudi × 0.7 with ridge 0.1" in line
    found, (line,) = without_other_centre(config, Path("other/centre_race.json"))
    assert (found.init, found.start) == ("published", 0.0)
    assert "all start as usual: they are over the centre Wudi × 0.7, and the race has found Wudi × 1" in line


TABLE = (torch.tensor([[0.7, 0.5]]), tensor_wise(["a"]), ["x", "Esm"])


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({"task_vectors": "Ties"}, {"task_vectors": {"class_path": "Ties", "init_args": {"density": 0.2}}}, ""),
        (
            {"task_vectors": "Ties"},
            {"task_vectors": {"class_path": "Ties", "init_args": {"density": 0.1}}},
            "transform Ties with density 0.1, found them with Ties with density 0.2",
        ),
        (
            {"centre": "regmean"},
            {"centre": {"class_path": "RegMean", "init_args": {"rows": 8}}},
            "over the centre RegMean with rows 8, found them over RegMean with rows 256",
        ),
        ({"centre": "regmean"}, {}, "over the centre base, found them over RegMean"),
    ],
)
def test_a_start_is_of_the_same_options_of_transform_and_centre(then, now, said, tmp_path):
    save_coefficients(tmp_path / COEFFICIENTS, *TABLE)  # as a version that did not name the centre
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(then))
    config = merge_config({**ONE, "method": "task_arithmetic", "init": tmp_path, "beside": [], **now})
    if said:
        with pytest.raises(ConfigError, match=said):
            start_from(config, tensor_wise(["a"]))
    else:
        assert start_from(config, tensor_wise(["a"])).tolist() == [[pytest.approx(0.7)]]


def test_a_merge_beside_with_other_options_starts_as_usual_and_is_named(tmp_path):
    save_coefficients(tmp_path / COEFFICIENTS, *TABLE, centre="base")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"beside": [{"class_path": "Esm"}]}))
    for power, start in ((2.0, 0.5), (1.0, 0.0)):
        beside = {"class_path": "Esm", "init_args": {"power": power}}
        config = merge_config({**ONE, "method": "task_arithmetic", "init": tmp_path, "beside": [beside]})
        assert start_from(config, tensor_wise(["a"])).tolist() == [pytest.approx([0.7, start])]
    (_, note, _) = warm_notes(config, ["a"])
    assert note.endswith("are not used: Esm (Esm with power 2.0 there, Esm with power 1.0 here)")


@pytest.mark.parametrize(
    ("then", "grouping", "notes"),
    [
        (task_wise, "tensor", ["3 of 3 parameters start from"]),
        (tensor_wise, "tensor", ["3 of 3 parameters start from"]),
        (tensor_wise, "task", ["1 of 1 groups start from", "1 of them had several coefficients there"]),
        (lambda names: row_blocks(SHAPES, 2), "tensor", ["3 of 3 parameters start", "2 of them had several"]),
    ],
)
def test_it_is_said_what_starts_from_a_mean(then, grouping, notes, tmp_path):
    groups = then([*SHAPES])
    save_coefficients(tmp_path / COEFFICIENTS, torch.rand(len(groups), 1), groups, ["x"], centre="base")
    config = merge_config({**ONE, "method": "task_arithmetic", "grouping": grouping, "init": tmp_path, "beside": []})
    found = warm_notes(config, [*SHAPES])
    assert len(found) == len(notes)
    assert all(said in line for said, line in zip(notes, found, strict=True))


def still():
    return ["--grouping", "tensor", "--optimizer", "null", "--trainer.max_steps", "0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init": "./nowhere"}, "nowhere: expected the directory of a finished run, but it has no coeff"),
        ({"init": "nowhere"}, "ClosedForm (ridge, towards, inputs, rows) or the directory of an earlier run, found"),
        (
            {"init": "run", "centre": "Isotropic"},
            "expected coefficients over the centre Isotropic, found them over base",
        ),
        (
            {"init": "run", "task_vectors": "Isotropic"},
            "expected coefficients of task vectors with the transform Isotropic, found them with none",
        ),
        ({"init": "run", "tasks": "ab"}, "expected coefficients of a, b, found those of mood, topic"),
        ({"init": "run", "weight": 0.5}, "an earlier run sets the start that models.parameters.weight also sets"),
    ],
)
def test_what_cannot_be_started_from(in_finished, main, changes, words):
    config = configuration(**{key: changes[key] for key in ("init", "centre", "task_vectors") if key in changes})
    for model, task in zip(config["models"], changes.get("tasks", ""), strict=False):
        model["task"] = task
    if "weight" in changes:
        config["models"][0]["parameters"] = {"weight": changes["weight"]}
    file = write(config)
    code, said, complaint = main("check", file)
    assert code == cli.BAD_INPUT
    assert words in said + complaint
    assert words in main("fit", file, "--run_dir", "next")[2]
    assert not (in_finished / "next").exists()


def test_coefficients_of_the_guards_merge_say_whose_they_are(in_finished, main):
    """Of a run over a centre, too, they are of plain task vectors over the base."""
    file = Path("run/coefficients.safetensors")
    own = load_coefficients(file)
    save_coefficients(file, own.coefficients, own.grouping, own.experts, centre=None, plain=True)
    code, said, _ = main("check", write(configuration(init="run", centre="Isotropic")))
    assert code == cli.BAD_INPUT
    assert "found them over base, because its guard exported a merge of plain task vectors; they are" in said
