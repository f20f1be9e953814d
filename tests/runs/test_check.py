"""`check` lists every problem in one answer, describes what would be merged, and writes nothing."""

import io
import os
import shutil

import pytest
from rich.console import Console
from support.families import configuration, listing, save_rows, third_expert, write
from support.mistakes import edit_tensors

from adamerge.runs.check import check
from adamerge.runs.read_config import merge_config


def checked(config, *, deep=False):
    """Problems of a configuration, and the lines that were printed."""
    out = io.StringIO()
    problems = check(merge_config(config, use="keep"), Console(file=out, width=500), deep=deep)
    lines = out.getvalue().splitlines()
    begun = [line.removeprefix("problem: ") for line in lines if line.startswith("problem: ")]
    assert begun == [problem.splitlines()[0] for problem in problems]
    return problems, lines


def spoil_expert_files(folder):
    """Weights cut short, a header that is none, and a tensor too few."""
    os.truncate(folder / "mood/model.safetensors", (folder / "mood/model.safetensors").stat().st_size - 100)
    with (folder / "topic/model.safetensors").open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xfe{{{")
    edit_tensors(folder / "speed/model.safetensors", lambda t: t.pop("bert.pooler.dense.bias"))


def test_every_problem_of_every_expert_is_listed(family):
    config = configuration()
    config["models"].append(third_expert(family))
    spoil_expert_files(family)
    config["models"][0]["calibration"] = "nowhere.jsonl"
    config["models"][2]["evaluation"] = "nowhere.jsonl"
    config["optimizer"] = None
    before = listing(family)
    problems, lines = checked(config)
    expected = (
        "optimizer: expected an optimiser",
        "mood/model.safe",
        "topic/model.safe",
        "speed: the file has no",
        "mood: nowhere",
        "speed: nowhere",
    )
    assert len(problems) == len(expected)
    for word, problem in zip(expected, problems, strict=True):
        assert word in problem
    assert lines[-1] == "6 problems found"
    assert listing(family) == before


def test_a_refusal_of_several_lines_is_one_problem(family):
    problems, lines = checked(configuration(export="adapter"))
    assert len(problems) == 1
    assert len(problems[0].splitlines()) == 2 + len(configuration()["models"])
    assert lines[-1] == "1 problem found"


def test_problems_of_rows_space_and_directory_are_listed_together(family, monkeypatch):
    (family / "run").mkdir()
    (family / "run/notes.txt").touch()
    save_rows(family / "mood_test.jsonl", 4, 0)
    (family / "topic.jsonl").write_text("")
    monkeypatch.setattr("adamerge.runs.disk_space.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))
    problems, _ = checked(configuration(run_dir="run"))
    expected = (
        "run: already exists",
        "mood_test.jsonl: expected a column 'label'",
        "topic: topic.jsonl",
        "run: the disk is full",
    )
    assert len(problems) == len(expected)
    for word, problem in zip(expected, problems, strict=True):
        assert word in problem


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_numbers_are_read_if_asked_or_few(family, monkeypatch, deep, small):
    monkeypatch.setattr("adamerge.runs.check.QUICK", 2**30 if small else 0)
    edit_tensors(family / "topic/model.safetensors", lambda t: t["classifier.bias"].fill_(float("nan")))
    problems, lines = checked(configuration(), deep=deep)
    assert bool(problems) is (deep or small)
    assert any("weights were not read" in line for line in lines) is not (deep or small)
    if deep or small:
        assert "topic (topic): classifier.bias has" in problems[0]
        assert lines[-1] == "1 problem found"


@pytest.mark.parametrize("deep", [False, True])
def test_what_is_right_has_no_problem(family, deep):
    before = listing(family)
    problems, lines = checked(configuration(), deep=deep)
    assert not problems
    assert lines[-1] == "no problem found"
    said = "\n".join(lines)
    assert "coefficients: at most 23 groups × 2 experts = 46" in said
    assert ("‖expert − base‖ / ‖base‖" in said) is deep
    assert listing(family) == before


def weighted(weights, **changes):
    """merge.yaml with a weight of each model."""
    config = configuration(**changes)
    for model, weight in zip(config["models"], weights, strict=True):
        model["parameters"] = {"weight": weight}
    return config


@pytest.mark.parametrize(
    ("weights", "changes", "word"),
    [
        ([[{"filter": "query", "value": 0.3}, {"value": 0.5}], 1], {"grouping": "block"}, "share a coefficient"),
        ([1, -1], {"method": "average"}, "expected weights with a sum other than 0"),
        ([0.5, 1], {"method": "ties"}, "mergekit's ties uses weights to elect signs"),
    ],
)
def test_a_start_that_cannot_be_is_one_problem(family, weights, changes, word):
    problems, _ = checked(weighted(weights, **changes))
    assert len(problems) == 1
    assert word in problems[0]


@pytest.mark.parametrize(
    ("weights", "changes", "word"),
    [
        ([1, 2], {"method": "average"}, "weights are divided by their sum"),
        ([[0, 1], 1], {"grouping": "tensor"}, "a list of weights runs from the first layer to the last"),
    ],
)
def test_what_a_weight_means_is_noted(family, weights, changes, word):
    problems, lines = checked(weighted(weights, **changes))
    assert not problems
    assert any(line.startswith("note: ") and word in line for line in lines)


WRONG = {
    "a value": ({"trainer": {"max_steps": -2}}, "trainer.max_steps"),
    "an unknown key": ({"objectiv": "Entropy"}, "objectiv"),
    "code of others": ({"optimizer": {"class_path": "os.system", "init_args": {"command": "touch ran"}}}, "os.system"),
    "a key of an item": ({"models": [{"model": "mood", "wieght": 1}, {"model": "topic"}], "method": "ties"}, "wieght"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_do_not_hide_what_is_wrong_with_experts(family, main, name):
    change, word = WRONG[name]
    config = {**configuration(), **change}
    edit_tensors(family / "topic/model.safetensors", lambda t: t.pop("bert.pooler.dense.bias"))
    code, listed, refused = main("check", "--config", write(config), "--run_dir", "run")
    problems = [line for line in listed.splitlines() if line.startswith("problem: ")]
    assert code == 2
    assert word in problems[0]
    assert refused == ""  # what is listed is not complained of once more
    assert "topic: the file has no" in problems[1]
    assert listed.splitlines()[-1] == "2 problems found"
    assert not (family / "ran").exists()
