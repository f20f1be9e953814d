"""A run's directory is free or its run goes on as it began, and a disk without room leaves nothing half-written."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.families import configuration, listing

from adamerge import cli
from adamerge.runs.begun_run import check_run_dir, where_it_lies
from adamerge.runs.build_model import open_experts
from adamerge.runs.disk_space import check_space
from adamerge.runs.read_config import merge_config, read_config
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.save_config import resolved
from adamerge.types import ConfigError

RUN = RunDirectory(Path("run"))


@pytest.fixture
def begun(family):
    """The family with a run in `run` that has begun."""
    RUN.path.mkdir()
    RUN.config.write_text(resolved(merge_config(configuration())))
    return family


def test_a_run_dir_that_exists_is_refused(begun):
    with pytest.raises(ConfigError) as refused:
        check_run_dir(RUN, "", resume=False)
    assert "run: already exists. Choose another --run_dir, or resume its run with --ckpt_path last" in str(
        refused.value
    )
    with pytest.raises(ConfigError, match=r"merge\.yaml: already exists"):
        check_run_dir(RunDirectory(Path("merge.yaml")), "", resume=False)


@pytest.mark.parametrize("left", [[], ["config.yaml.partial"]], ids=["empty", "half-written"])
def test_a_run_dir_with_nothing_in_it_is_taken(family, left):
    RUN.path.mkdir()
    for name in left:
        (RUN.path / name).touch()
    check_run_dir(RUN, "", resume=False)


@pytest.mark.parametrize(
    ("change", "given", "place", "words"),
    [
        (lambda run: None, "run/config.yaml", "run", []),
        (lambda run: run.rename("b"), "b/config.yaml", "b", ["moved"]),
        (lambda run: shutil.copytree(run, "b"), "b/config.yaml", "b", ["copied"]),
        (lambda run: shutil.copytree(run, "b"), "run/config.yaml", "run", []),
        (lambda run: Path("b").symlink_to("run"), "b/config.yaml", "run", []),
        (lambda run: run.rename("b") and run.symlink_to("b"), "run/config.yaml", "run", []),
        (lambda run: run.rename("b") and Path("a.yaml").symlink_to("b/config.yaml"), "a.yaml", "b", ["moved"]),
        (lambda run: run.rename("b"), "merge.yaml", "run", []),
    ],
    ids=["left alone", "moved", "copied", "the original", "a link to it", "a link for it", "its file a link", "others"],
)
def test_a_run_goes_on_where_its_configuration_lies(begun, change, given, place, words):
    (RUN.path / RUN.inputs.name).write_text("{}")
    config = read_config(RUN.config, lambda note: None)
    said = []
    change(RUN.path)
    found = where_it_lies(config, [given], said.append)
    assert Path(found.run_dir) == Path(place).absolute()
    assert len(said) == len(words)
    assert all(f"was {word} from" in line for word, line in zip(words, said, strict=True))


def test_nothing_to_resume(family):
    with pytest.raises(ConfigError, match="run: there is no run to resume"):
        check_run_dir(RUN, resolved(merge_config(configuration())), resume=True)
    assert not RUN.path.exists()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"init": 0.4}, "init (was published, is 0.4)"),
        ({"data": {"batch_size": None}}, "data.batch_size (was 4, is None)"),
        ({"feasible": "Unbounded"}, "feasible.class_path"),
        (
            {"models": [{"model": "mood", "calibration": "mood.jsonl", "evaluation": "mood_test.jsonl"}]},
            "models.1.model",
        ),
    ],
)
def test_resuming_with_another_configuration_is_refused(begun, changes, key):
    before = listing(begun)
    with pytest.raises(ConfigError) as refused:
        check_run_dir(RUN, resolved(merge_config(configuration(**changes))), resume=True)
    assert "run: the configuration differs from the run to be resumed" in str(refused.value)
    assert key in str(refused.value)
    assert listing(begun) == before


def test_a_run_may_go_on_for_longer(begun):
    check_run_dir(RUN, resolved(merge_config(configuration())), resume=True)
    longer = configuration(trainer={"max_steps": 20, "accelerator": "cpu"})
    check_run_dir(RUN, resolved(merge_config(longer)), resume=True)


def test_a_run_dir_in_the_home_directory(family, main, monkeypatch):
    monkeypatch.setenv("HOME", str(family / "home"))
    assert main("fit", "--config", "merge.yaml", "--run_dir", "~/run", "--trainer.max_steps", "1")[0] == 0
    assert (family / "home/run/recipe.json").exists()
    assert not (family / "~").exists()


# --- full disks ------------------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_noticed_before_learning(family, monkeypatch):
    config = merge_config(configuration())
    experts = open_experts(config)
    check_space(config, experts, RUN)
    monkeypatch.setattr("adamerge.runs.disk_space.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ConfigError, match="run: the disk is full"):
        check_space(config, experts, RUN)


@pytest.mark.parametrize("write_number", [1, 3, 8, 11])
def test_a_disk_that_fills_up_leaves_no_incomplete_file(family, main, monkeypatch, write_number):
    sync, calls = os.fsync, []

    def fsync(file):
        calls.append(file)
        if len(calls) >= write_number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr("adamerge.storage.atomic_files.os.fsync", fsync)
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert "No space left on device. No incomplete files remain." in complaint
    assert "run/" in complaint  # which file it was
    assert not list(family.rglob("*.partial"))
    assert not (family / "run/merged").exists()


@pytest.mark.reports  # the pictures leave too little room for the merge
def test_a_disk_that_is_really_full(family, main, monkeypatch):
    place = family / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        usage = shutil.disk_usage
        monkeypatch.setattr("adamerge.runs.disk_space.shutil.disk_usage", lambda place: usage("/"))
        code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "small/run")
        assert code == cli.BAD_INPUT
        assert "No space left on device" in complaint
        assert (place / "run/config.yaml").exists()
        assert not list(place.rglob("*.partial"))
        assert not (place / "run/merged").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
        assert main("fit", "--config", "small/run/config.yaml", "--ckpt_path", "last")[0] == 0
        assert (place / "run/recipe.json").exists()
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # files may still be mapped
