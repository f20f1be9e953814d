"""The command end to end: what a run writes, and that a mistake of any kind is answered before anything is written."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import TASKS, configuration, listing, save_rows, write
from support.mistakes import edit_tensors, pickle_weights, table

from adamerge import cli
from adamerge.import_problems import import_problem
from adamerge.merging.coefficients import load_coefficients
from adamerge.runs.run_directory import RunDirectory

MISTAKES, mistake = table()


@mistake("mood/model.safetensors", "complete safetensors file", "copy or download it again")
def checkpoint_cut_short(folder, config):
    (folder / "mood/model.safetensors").write_bytes((folder / "mood/model.safetensors").read_bytes()[:-100])


@mistake("topic (topic): classifier.bias has 1 NaN or infinite numbers")
def not_a_number(folder, config):
    edit_tensors(folder / "topic/model.safetensors", lambda t: t["classifier.bias"].__setitem__(0, torch.inf))


@mistake("mood_test.jsonl: expected a column 'label'")
def rows_without_labels(folder, config):
    save_rows(folder / "mood_test.jsonl", 4, 0)


@mistake("expected a different name per expert, found mood twice")
def task_twice(folder, config):
    config["models"][1]["task"] = "mood"


@mistake("task_vectors", "density")
def transform_out_of_range(folder, config):
    config["task_vectors"] = {"class_path": "Ties", "init_args": {"density": 1.5}}


@mistake("trainer.max_steps")
def steps_below_zero(folder, config):
    config["trainer"]["max_steps"] = -2


@mistake("closed_form computes the start that models.parameters.weight also sets")
def two_ways_to_start(folder, config):
    config["init"] = "closed_form"
    give_weights(config, 0.5, 1)


@mistake("mood: parameters.weight", "share a coefficient", "grouping: tensor")
def two_starts_in_one_group(folder, config):
    config["grouping"] = "block"
    give_weights(config, [{"filter": "query", "value": 0.3}, {"value": 0.5}], 1)


@mistake("expected weights with a sum other than 0 per group, found sum 0")
def weights_that_cannot_be_divided_by_their_sum(folder, config):
    config["method"] = "average"
    give_weights(config, 1, -1)


@mistake("run: already exists")
def run_directory_in_use(folder, config):
    (folder / "run").mkdir()
    (folder / "run/notes.txt").touch()


@mistake("run: the disk is full")
def disk_without_room(folder, config, patch):
    patch.setattr("adamerge.runs.disk_space.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))


def give_weights(config, *weights):
    for model, weight in zip(config["models"], weights, strict=True):
        model["parameters"] = {"weight": weight}


@pytest.mark.parametrize("name", MISTAKES)
def test_check_and_fit_agree_on_a_mistake_and_write_nothing(family, main, monkeypatch, name):
    make, words = MISTAKES[name]
    config = configuration()
    make(family, config, *([monkeypatch] if "disk" in name else []))
    file = write(config)
    before = listing(family)
    code, _, complaint = main("fit", "--config", file, "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert complaint.startswith("error: ")
    code, listed, refused = main("check", "--config", file, "--run_dir", "run", "--deep")
    assert code == cli.BAD_INPUT
    for word in words:
        assert word in complaint
        assert word in listed + refused
    assert listing(family) == before


def test_a_whole_run(finished):
    run = RunDirectory(finished / "run")
    parts = {run.config, run.inputs, run.checkpoints, run.targets, run.merged, *run.results} - {
        run.report,
        run.report.with_suffix(".md"),
    }
    assert {path for path in run.path.iterdir()} == parts
    assert load_coefficients(run.coefficients).coefficients.shape == (23, 2)
    metrics = json.loads(run.metrics.read_text())
    assert metrics["learned"].keys() == {*TASKS, "mean"}
    assert load_file(run.merged / "model.safetensors")
    assert all((run.merged / task / "config.json").exists() for task in TASKS)


def test_check_of_what_is_right(family, main):
    before = listing(family)
    code, said, complaint = main("check", "--config", "merge.yaml", "--deep")
    assert (code, complaint) == (0, "")
    assert said.splitlines()[-1] == "no problem found"
    assert listing(family) == before


def test_weights_of_models_are_where_a_run_starts(family, main):
    config = configuration(method="task_arithmetic", trainer={"max_steps": 0, "accelerator": "cpu"}, init=0.2)
    config["models"][1]["parameters"] = {"weight": 0.4}
    code, _, complaint = main("fit", "--config", write(config), "--run_dir", "run")
    assert (code, complaint) == (0, "")
    found = load_coefficients(Path("run/coefficients.safetensors"))
    assert found.experts == TASKS
    assert torch.equal(found.coefficients, torch.tensor([[0.2, 0.4]]))
    again = listing(family)
    assert main("check", "--config", "run/config.yaml", "--run_dir", "other")[0] == 0
    assert listing(family) == again


def test_learning_goes_on_from_the_weights_of_models(family, main):
    config = configuration(watch={"every": 5, "monitor": "last"})
    give_weights(config, 0.4, 0.2)
    assert main("fit", "--config", write(config), "--run_dir", "run", "--trainer.max_steps", "1")[0] == 0
    looked = json.loads(Path("run/metrics.json").read_text())["history"][0]
    assert (looked["step"], looked["c_min"], looked["c_max"]) == pytest.approx((0, 0.2, 0.4))


def test_a_run_without_time_is_refused_before_it_begins(family, main):
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run", "--trainer.max_time", "00:00:00:00")
    assert code == cli.BAD_INPUT
    assert "trainer.max_time: expected DD:HH:MM:SS above 0" in complaint
    assert not (family / "run").exists()


def test_only_a_run_that_there_is_can_be_resumed(in_finished, main):
    before = listing(in_finished)
    resumed = ("fit", "--config", "run/config.yaml", "--ckpt_path", "last", "--run_dir")
    code, _, complaint = main(*resumed, "other")
    assert code == cli.BAD_INPUT
    assert "other: there is no run to resume" in complaint
    code, _, complaint = main(*resumed, "run", "--init", "0.4")
    assert code == cli.BAD_INPUT
    assert "differs from the run to be resumed: init (was published, is 0.4). " in complaint
    assert listing(in_finished) == before
    assert main(*resumed, "run")[0] == 0


def test_permission_to_unpickle_is_given_on_the_command_line(family, main):
    pickle_weights(family / "mood")
    said = ("fit", "--config", "merge.yaml", "--run_dir", "run", "--trainer.max_steps", "1")
    assert main(*said)[0] == cli.BAD_INPUT
    assert main(*said, "--allow_pickle", "true")[0] == 0


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"adamerge {version('adamerge')}\n"


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "adamerge", "fti"], capture_output=True, text=True, check=False)
    assert done.returncode == cli.BAD_INPUT
    known = f"{', '.join(map(repr, cli.COMMANDS))}; adamerge --help explains them."
    assert done.stderr == f"error: there is no command fti; expected one of {known} Did you mean fit?\n"


def test_check_lists_every_problem(family, main):
    many = [f"unknown_{number}" for number in range(2 * cli.SCREEN)]
    (family / "many.yaml").write_text("\n".join(f"{key}: 1" for key in many))
    assert len(main("check", "--config", "many.yaml")[2].splitlines()) >= len(many)
    assert len(main("fit", "--config", "many.yaml")[2].splitlines()) == cli.SCREEN


def test_commands_draw_into_files_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nope")
    assert cli.main(["methods"]) == 0
    assert os.environ["MPLBACKEND"] == "nope"  # a notebook's
    monkeypatch.setattr(sys, "argv", ["adamerge", "methods"])
    monkeypatch.setattr(cli, "end_at_once", lambda: None)  # this process goes on
    assert cli.main() == 0
    assert os.environ["MPLBACKEND"] == "agg"


def test_too_little_memory_for_the_libraries_is_said_before_they_are_imported(main, monkeypatch):
    monkeypatch.setattr("adamerge.storage.memory.free_memory", lambda: 3e8)
    assert "warning: 300 MB of memory are free" in main("check", "--config", "nothing.yaml")[2]
    monkeypatch.setattr("adamerge.storage.memory.free_memory", lambda: 3e9)
    assert "memory" not in main("check", "--config", "nothing.yaml")[2]


def test_a_library_that_the_environment_breaks_is_named_with_its_variables(tmp_path, monkeypatch):
    (tmp_path / "brittle.py").write_text("import os\nSIZE = int(os.environ['BRITTLE_SIZE'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BRITTLE_SIZE", "much")
    ours = compile("import brittle", str(Path(cli.__file__).with_name("any.py")), "exec")
    with pytest.raises(ValueError, match="much") as broken:
        exec(ours, {})
    assert "BRITTLE_SIZE='much'. Correct it, or remove it: unset BRITTLE_SIZE" in str(import_problem(broken.value))
