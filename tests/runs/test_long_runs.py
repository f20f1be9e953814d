"""What may happen in a long run: signals, a moved run directory, files cut off under it, tasks with names alike."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.families import save_text_family
from support.processes import Strike, run

from adamerge import cli
from adamerge.calibration import targets
from adamerge.learning.checkpoints import OneCheckpoint, newest
from adamerge.learning.merge_module import MergeModule
from adamerge.merging.coefficients import load_coefficients
from adamerge.storage.atomic_files import whole_folder
from adamerge.storage.signals import ENDING, as_ctrl_c
from adamerge.storage.weights import MappedFiles
from adamerge.types import IncompatibleExpertsError

SETTINGS = {
    "base_model": "base",
    "models": [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")],
    "run_dir": "run",
    "method": "adamerging",
    "data": {"batch_size": 4, "rows": 8},
    "trainer": {"max_steps": 3, "accelerator": "cpu"},
    "watch": {"every": 1},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A base and two experts with their rows, and merge.yaml; not to be altered."""
    folder = save_text_family(tmp_path_factory.mktemp("pair"), ("mood", "topic"))
    (folder / "merge.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return folder


@pytest.fixture
def place(pair, tmp_path, monkeypatch):
    """A copy of the pair, as the current directory."""
    monkeypatch.chdir(shutil.copytree(pair, tmp_path / "pair"))
    return tmp_path / "pair"


@pytest.fixture
def _heard():
    """Signals have their usual effect, also where the tests were started by nohup."""
    former = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_heard")
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_leaves_no_partial_folder(tmp_path, number):
    before = signal.getsignal(number)

    def write_half():
        with as_ctrl_c(), whole_folder(tmp_path / "merged") as part:
            (part / "half").touch()
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 1)

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.usefixtures("_heard")
@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("where", ["runs.learn_merge.load_data", "results.write_backbone.write_index"])
def test_fit_says_how_to_go_on_after_a_signal(place, main, monkeypatch, number, where):
    def struck(*given, **more):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr(f"adamerge.{where}", struck)
    code, _, said = main("fit", "--config", "merge.yaml", "--trainer.max_steps", 0, "--init", 0.3)
    assert code == cli.INTERRUPTED
    assert "interrupted." in said
    assert not list(place.rglob("merged"))
    assert len(list(place.rglob("*.partial"))) == where.endswith("write_index")  # the export, which goes on


def test_a_moved_run_goes_on_from_its_newest_checkpoint(place, main, monkeypatch):
    def stop(callback, *given):
        callback.interrupted = True

    def steps():
        kept = torch.load(place / "elsewhere/checkpoints/last.ckpt", weights_only=True)
        return kept["global_step"]

    with monkeypatch.context() as patch:
        patch.setattr("adamerge.learning.interrupt.StopOnInterrupt.on_train_start", stop)
        assert main("fit", "--config", "merge.yaml")[0] == cli.INTERRUPTED
    (place / "run").rename(place / "elsewhere")
    assert steps() == 1
    with monkeypatch.context() as patch:
        patch.setattr("adamerge.learning.interrupt.StopOnInterrupt.on_train_start", stop)
        code, said, _ = main("fit", "--config", "elsewhere/config.yaml", "--ckpt_path", "last")
    assert code == cli.INTERRUPTED
    assert re.search(r"note: the run directory was moved from .*run; the run is resumed in .*elsewhere\.", said)
    assert steps() == 2
    assert main("fit", "--config", "elsewhere/config.yaml", "--ckpt_path", "last")[0] == 0
    assert [path.name for path in (place / "elsewhere/checkpoints").iterdir()] == ["last.ckpt"]
    assert not (place / "run").exists()
    assert main("fit", "--config", "merge.yaml", "--run_dir", "whole")[0] == 0
    tables = [load_coefficients(place / name / "coefficients.safetensors") for name in ("elsewhere", "whole")]
    assert torch.equal(*(table.coefficients for table in tables))


def held():
    """Resident bytes, open files and mappings of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGESIZE"),
        len(os.listdir("/proc/self/fd")),
        Path("/proc/self/maps").read_text().count("\n"),
    )


def pytest_generate_tests(metafunc):
    """Both executions of long runs where everything was asked for, else one."""
    if "memory" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        metafunc.parametrize(("memory", "steps"), [("mapped", 3000), ("streamed", 3000)] if full else [("mapped", 18)])


def test_memory_descriptors_and_mappings_stay_flat(place, main, monkeypatch, memory, steps):
    """The first third is not judged."""
    seen, step = [], MergeModule.training_step

    def watched(module, *given):
        if module.global_step % (steps // 9) == 0:
            seen.append(held())
        return step(module, *given)

    monkeypatch.setattr(MergeModule, "training_step", watched)
    settings = ("--memory", memory, "--trainer.max_steps", steps, "--watch.every", steps // 3)
    assert main("fit", "--config", "merge.yaml", *settings)[0] == 0
    assert len(seen) >= 9
    resident, files, mappings = (max(values) - values[0] for values in zip(*seen[3:], strict=True))
    assert resident < 2**24
    assert files == 0
    assert mappings <= 6


def test_the_newest_of_several_checkpoints_is_taken(tmp_path):
    for name, time in (("last.ckpt", 100), ("last-v1.ckpt", 300), ("last-v2.ckpt", 200), ("last-old.ckpt", 400)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    assert newest(tmp_path) == tmp_path / "last-v1.ckpt"
    assert newest(tmp_path / "none") is None


def test_a_checkpoint_says_nothing_of_other_folders(tmp_path):
    from pytorch_lightning.callbacks import ModelCheckpoint

    ours = OneCheckpoint(tmp_path / "new", "last", every_n_train_steps=1, enable_version_counter=False)
    theirs = ModelCheckpoint(tmp_path / "old", "last", every_n_train_steps=1)
    assert ours.state_key == theirs.state_key
    ours.load_state_dict({**theirs.state_dict(), "best_model_path": str(tmp_path / "old/last.ckpt")})
    assert not ours.best_model_path


def test_a_file_cut_off_in_use_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100, 100), "v": torch.ones(3)}, file)
    mapped = MappedFiles([file])
    assert mapped["w"].sum() == 10_000
    os.truncate(file, 5000)
    for read in (lambda: mapped["w"], lambda: next(mapped.pieces("w", 10))):
        with pytest.raises(
            IncompatibleExpertsError, match=r"model\.safetensors: expected 4\d+ bytes.*found 5000.*Restore"
        ):
            read()


CUTS = {
    "resident": ("base/model.safetensors", "resident", "adamerge.learning.merge_module.surrogate"),
    "heads": ("topic/model.safetensors", "resident", "adamerge.learning.merge_module.surrogate"),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_run_whose_file_is_cut_off_ends_by_its_name(place, name):
    file, memory, where = CUTS[name]
    config = yaml.safe_load((place / "merge.yaml").read_text()) | {"memory": memory}
    (place / "merge.yaml").write_text(yaml.safe_dump(config))
    ended = run(["fit", "--config", "merge.yaml"], place, place / "log.txt", Strike(where, cut=file))
    said = (place / "log.txt").read_text()
    assert ended == cli.BAD_INPUT, (ended, said)  # and not −SIGBUS
    assert re.search(rf"{file}: expected \d+ bytes, .*found 4096: it was cut off.*Restore it", said)
    assert "Traceback" not in said


def test_a_file_that_was_replaced_is_still_there(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100, 100)}, file)
    mapped = MappedFiles([file])
    (tmp_path / "other").write_bytes(b"short")
    (tmp_path / "other").rename(file)
    assert mapped["w"].sum() == 10_000


def test_targets_of_a_task_with_a_longer_name_stay(tmp_path):
    long = "a." + "0123456789abcdef"
    former, other = tmp_path / "a.fedcba9876543210.safetensors", tmp_path / f"{long}.safetensors"
    former.touch()
    other.touch()
    (tmp_path / f"{long}.key.json").touch()
    targets.remove_former(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{long}.key.json", f"{long}.safetensors"]


def test_no_links_copies(place, main):
    sharded = ("--max_shard_size", "20KB")  # tasks with heads then share the shards without
    command = ("fit", "--config", "merge.yaml", "--trainer.max_steps", 0, "--init", 0.3, *sharded)
    assert main(*command)[0] == 0
    assert main(*command, "--no_links", "true", "--run_dir", "copied")[0] == 0
    assert main("export", "run", "out", "--no_links", "true", *sharded)[0] == 0
    for folder, links in (("run/merged", True), ("copied/merged", False), ("out", False)):
        files = [path for path in Path(folder).glob("*/*.safetensors")]
        assert files
        assert any(path.stat().st_nlink > 1 for path in files) is links
    for file in Path("run/merged").rglob("*.safetensors"):
        assert file.read_bytes() == (Path("out") / file.relative_to("run/merged")).read_bytes()
