"""A run goes on for more steps only; an export that was changed is not measured as the run's."""

import json
import os

import pytest
import torch

from adamerge.runs.exported_files import check_as_written, hash_export
from adamerge.runs.finished import RunFinishedError, check_unfinished
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.kept import SILENT
from adamerge.types import ConfigError


def settings(steps, time=None):
    return f"trainer:\n  max_steps: {steps}\n  max_time: {time or 'null'}\n"


def checkpoint(steps):
    whole = {"epoch": 0, "global_step": steps, "pytorch-lightning_version": "2.5", "loops": {}, "state_dict": {}}
    return {**whole, "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}


def saved(folder, *, recipe=None, done=0, stages=()):
    """A run directory with a recipe of these settings, or without, after so many steps."""
    run = RunDirectory(folder)
    places = {run.checkpoints: done, **{run.checkpoints / name: steps for name, steps in stages}}
    for place, steps in places.items():
        place.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint(steps), place / "last.ckpt") if steps else None
    if recipe:
        run.recipe.write_text(json.dumps({"config": recipe, "coefficients": {"sha256": ""}}))
        run.metrics.write_text(json.dumps({"history": [{"step": done}]}))
    return run


LEFT_ALONE = [(10, None, 5, None), (10, None, 10, "00:01:00:00"), (10, "00:01:00:00", 20, "00:00:00:59")]
LEFT_ALONE += [(10, "00:01:00:00", 10, "00:02:00:00"), (10, "00:01:00:00", 9, None)]
GOES_ON = [(10, None, 11, None), (10, "00:01:00:00", 11, "00:01:00:00"), (10, "00:01:00:00", 11, None)]


@pytest.mark.parametrize(("steps", "time", "now", "limit"), LEFT_ALONE)
def test_a_finished_run_goes_on_for_more_steps_only(tmp_path, steps, time, now, limit):
    run = saved(tmp_path, recipe=settings(steps, time), done=steps)
    with pytest.raises(ConfigError, match=r"larger --trainer\.max_steps than 10") as refused:
        check_unfinished(run, settings(now, limit), print)
    assert not isinstance(refused.value, RunFinishedError)
    assert "Nothing in it was changed" in str(refused.value)


@pytest.mark.parametrize(("steps", "time", "now", "limit"), GOES_ON)
def test_more_steps_go_on(tmp_path, steps, time, now, limit):
    check_unfinished(saved(tmp_path, recipe=settings(steps, time), done=steps), settings(now, limit), print)


def test_a_run_that_ran_out_of_time_goes_on_with_more_of_it(tmp_path):
    run = saved(tmp_path, recipe=settings(10, "00:00:01:00"), done=7)
    check_unfinished(run, settings(10, "00:00:02:00"), print)
    check_unfinished(run, settings(10), print)
    with pytest.raises(RunFinishedError):
        check_unfinished(run, settings(10, "00:00:01:00"), print)


@pytest.mark.parametrize("what", ["centre", "task_vectors", "beside"])
def test_a_finished_run_makes_anew_what_is_damaged(tmp_path, what):
    run, said = saved(tmp_path, recipe=settings(10), done=10), []
    place = {"centre": run.centre, "task_vectors": run.task_vectors, "beside": run.beside / "a.safetensors"}[what]
    file = place / "one.safetensors" if what == "task_vectors" else place

    def make(path):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"whole")

    SILENT.store(place, {"settings": "these"}, make)
    with pytest.raises(RunFinishedError):
        check_unfinished(run, settings(10), said.append)
    file.write_bytes(b"other")
    check_unfinished(run, settings(10), said.append)
    (line,) = said
    assert line.startswith(f"note: {place}: expected what the run made, but it is damaged")


@pytest.mark.parametrize(("done", "stages"), [(6, ()), (0, (("first", 4), ("second", 2)))])
def test_an_interrupted_run_does_not_forget_steps(tmp_path, done, stages):
    run = saved(tmp_path, done=done, stages=stages)
    check_unfinished(run, settings(6), print)
    with pytest.raises(ConfigError, match="at least the 6 steps that this run has learned, found 5"):
        check_unfinished(run, settings(5), print)


CHANGES = {  # of an export, and how they are named; None if they do not matter
    "model.safetensors": "has other content",
    "mood/config.json": "has other content",
    "vocab.txt": "has other content",
    "adapter_model.safetensors": "is new",
    "mood/chat_template.jinja": "is new",
    "README.md": None,
    "mood/README.md": None,
    "mine.txt": None,
    "mood/plot.png": None,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_export_is_refused_by_name(tmp_path, name):
    (tmp_path / "mood").mkdir()
    for file in ("model.safetensors", "README.md", "vocab.txt", "mood/config.json", "mood/README.md"):
        (tmp_path / file).write_text("first")
    os.link(tmp_path / "model.safetensors", tmp_path / "mood/model.safetensors")
    expected = hash_export(tmp_path)
    check_as_written(expected, tmp_path, "")
    (tmp_path / name).write_text("other")
    if CHANGES[name] is None:
        check_as_written(expected, tmp_path, "")
        return
    with pytest.raises(ConfigError) as refused:
        check_as_written(expected, tmp_path, "The way on.")
    assert f"{name} {CHANGES[name]}" in str(refused.value)
    assert str(refused.value).endswith("The way on.")


def test_a_missing_file_of_an_export_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    expected = hash_export(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        check_as_written(expected, tmp_path, "")
