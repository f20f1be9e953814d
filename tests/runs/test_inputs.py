"""A run goes on, is exported and measured with what it was made from; what changed is named, and nothing is touched."""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import listing
from transformers import BertForSequenceClassification

from adamerge import cli
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.results.unchanged import check_unchanged
from adamerge.runs.inputs import check_inputs, hash_files, hash_processor, remember
from adamerge.storage.exclusive import used_alone
from adamerge.types import ConfigError


@pytest.fixture
def moved(finished, in_finished):
    """A finished run, as the current directory, whose paths name the copy and not what it was copied from."""
    for file in (in_finished / "run").iterdir():
        if file.suffix in (".yaml", ".json"):
            file.write_text(file.read_text().replace(str(finished), str(in_finished)))
    return in_finished


def other_weights(file):
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, name: tensors[name] + 0.25}, file, {"format": "pt"})


def other_text(file):
    file.write_text(file.read_text() + " ")


CHANGES = [
    ("base/model.safetensors", other_weights, "base (", "model.safetensors has other content"),
    ("mood/model.safetensors", other_weights, "expert mood (", "model.safetensors has other content"),
    ("topic/config.json", other_text, "expert topic (", "config.json has other content"),
    ("base/tokenizer.json", other_text, "base (", "tokenizer.json has other content"),
    ("base/tokenizer_config.json", Path.unlink, "base (", "tokenizer_config.json is gone"),
    ("topic/preprocessor_config.json", Path.touch, "expert topic (", "preprocessor_config.json is new"),
    ("run/coefficients.safetensors", other_weights, "run/coefficients.safetensors: expected the coefficients", ""),
]


def test_what_changed_after_the_run_is_refused_by_name(moved, main):
    for place, change, who, what in CHANGES:
        file = moved / place
        former = file.read_bytes() if file.exists() else None
        change(file)
        before = listing(moved)
        for command in (("export", "run", "out"), ("evaluate", "run")):
            code, _, complaint = main(*command)
            assert code == cli.BAD_INPUT, (place, command)
            assert who in complaint
            assert what in complaint
            assert "estore" in complaint
            assert {path: time for path, time in listing(moved).items() if path.name != "run"} == {
                path: time for path, time in before.items() if path.name != "run"
            }
        file.unlink(missing_ok=True) if former is None else file.write_bytes(former)
    assert main("export", "run", "out")[0] == 0


def test_an_index_that_appears_beside_one_file_changes_nothing(moved, main):
    (moved / "mood/model.safetensors.index.json").write_text('{"weight_map": {"x": "model.safetensors"}}')
    assert main("export", "run", "out")[0] == 0


def test_rows_that_changed_are_measured_as_they_are_and_named_by_their_files(moved, main):
    files = {"calibration": moved / "mood.jsonl", "evaluation": moved / "mood_test.jsonl"}
    for file in files.values():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-4]))
    code, said, _ = main("evaluate", "run")
    notes = [line for line in said.splitlines() if "are not those of the run" in line]
    assert code == 0
    for note, (purpose, file) in zip(notes, files.items(), strict=True):
        assert note.startswith(f"note: mood: the {purpose} rows are not those of the run ({file}): ")
    assert json.loads((moved / "run/metrics.json").read_text())["measured_again"] == notes
    assert main("report", "run")[0] == 0
    assert all(note in (moved / "run/report.md").read_text() for note in notes)


def nothing_learned(*given, **more):
    raise KeyboardInterrupt


@pytest.fixture
def begun(family, main, monkeypatch):
    """The family with a run that was interrupted before it learned."""
    with monkeypatch.context() as patch:
        patch.setattr("adamerge.runs.fit.learn_merge", nothing_learned)
        assert main("fit", "--config", "merge.yaml", "--run_dir", "run")[0] == cli.INTERRUPTED
    return family


def test_a_run_that_a_newer_version_began_does_not_go_on(begun, main):
    file, config = Path("run/inputs.json"), Path("run/config.yaml").read_text()
    content = json.loads(file.read_text())
    assert content["packages"] == {"adamerge": version("adamerge")}
    file.write_text(json.dumps({**content, "packages": {"adamerge": "0.10.0"}}))
    code, _, complaint = main("fit", "--config", "run/config.yaml", "--ckpt_path", "last")
    assert code == cli.BAD_INPUT
    assert "run/inputs.json: expected a run of adamerge" in complaint
    assert "found one of 0.10.0" in complaint
    assert Path("run/config.yaml").read_text() == config
    file.write_text(json.dumps({**content, "packages": {"adamerge": "0.0.9"}}))
    remember(content, file)
    assert json.loads(file.read_text()) == content  # whoever goes on is on record


def test_resuming_names_what_changed(begun, main):
    family = begun
    other_weights(family / "topic/model.safetensors")
    other_text(family / "base/tokenizer_config.json")
    code, _, complaint = main("fit", "--config", "run/config.yaml", "--ckpt_path", "last")
    assert code == cli.BAD_INPUT
    assert f"expert topic ({family}/topic): model.safetensors has other content" in complaint
    assert f"base ({family}/base): tokenizer_config.json has other content" in complaint
    assert "mood" not in complaint


def test_a_run_whose_sources_moved_goes_on_with_their_places(begun, main, finished):
    """Where the content is the same, to the same coefficients; other content leaves the run as it was."""
    family = begun
    (family / "else").mkdir()
    for name in ("mood", "topic", "mood.jsonl"):
        shutil.move(family / name, family / "else" / name)
    (family / "else/mood").rename(family / "else/feelings")
    again, before = ("fit", "--config", "run/config.yaml", "--ckpt_path", "last"), Path("run/config.yaml").read_text()
    complaint = main(*again)[2]
    gone = ("models.0.model", "models.0.calibration", "models.1.model")
    assert f"config.yaml: {', '.join(gone)}: expected the place of what the run was made from" in complaint
    assert f"by {' '.join(f'--{key} PLACE' for key in gone)}." in complaint
    places = ("--models.0.model", "else/feelings", "--models.1.model", "else/topic")
    rows = ("--models.0.calibration", "else/mood.jsonl")
    assert "models.0.task (was mood, is feelings)" in main(*again, *places, *rows)[2]
    places += ("--models.0.task", "mood")
    assert "rows of mood" in main(*again, *places, "--models.0.calibration", "topic.jsonl")[2]
    assert Path("run/config.yaml").read_text() == before
    assert main(*again, *places, *rows)[0] == 0
    learned = [load_file(folder / "run/coefficients.safetensors")["coefficients"] for folder in (family, finished)]
    assert torch.equal(*learned)


def test_a_run_without_recipe_is_taken_as_it_is_and_said(in_finished, main):
    Path("run/recipe.json").unlink()
    code, said, _ = main("export", "run", "out")
    assert code == 0
    assert "note: run has no recipe.json" in said


@pytest.mark.parametrize("how", ["written", "replaced", "removed", "new"])
def test_files_that_change_while_they_are_in_use(text_family, tmp_path, how):
    for name in ("base", "mood", "topic"):
        shutil.copytree(text_family / name, tmp_path / name)
    opened = [open_checkpoint(str(tmp_path / name)) for name in ("base", "mood", "topic")]
    experts = from_checkpoints(opened[0], {"mood": opened[1], "topic": opened[2]})
    check_unchanged(experts)
    (tmp_path / "mood/notes.txt").touch()  # is not exported
    check_unchanged(experts)
    file = tmp_path / {"new": "topic/generation_config.json", "removed": "base/tokenizer.json"}.get(
        how, "mood/model.safetensors"
    )
    if how == "written":
        os.utime(file, ns=(0, 0))
    elif how == "replaced":
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        shutil.copy(file, tmp_path / "copy")
        (tmp_path / "copy").replace(file)
        os.utime(file, ns=times)
    elif how == "removed":
        file.unlink()
    else:
        file.write_text("{}")
    with pytest.raises(ConfigError) as refused:
        check_unchanged(experts)
    assert str(refused.value).startswith(f"{'base' if how == 'removed' else 'expert ' + file.parent.name} ({file}): ")


OF_A_TRAINER = (
    *(
        "training_args.bin",
        "optimizer.pt",
        "optimizer.bin",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "random_states.pkl",
    ),
    *("trainer_state.json", "all_results.json", "eval_results.json", "random.safetensors", "sampler.bin", "README.md"),
    *("runs/events.out.tfevents.1", "checkpoint-5/model.safetensors", "global_step5/states.bin", ".env", "latest"),
)


def hashes(place):
    checkpoint = open_checkpoint(str(place))
    return hash_files(checkpoint), hash_processor(checkpoint)


def test_what_a_trainer_adds_or_takes_away_changes_nothing(text_family, tmp_path):
    for sharded, place in ((False, tmp_path / "one"), (True, tmp_path / "several")):
        if sharded:
            size = {"max_shard_size": "10KB"}
            BertForSequenceClassification.from_pretrained(tmp_path / "one").save_pretrained(place, **size)
        else:
            shutil.copytree(text_family / "mood", place)
        before = hashes(place)
        for name in OF_A_TRAINER:
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(b"anything")
        assert hashes(place) == before
        file, source = tmp_path / "inputs.json", {"source": str(place)}
        former = {**before[0], "training_args.bin": "what an earlier version hashed"}
        file.write_text(json.dumps({"base": {**source, "sha256": former}}))
        check_inputs({"base": {**source, "sha256": before[0]}}, file)
        file.write_text(json.dumps({"base": {**source, "sha256": {**before[0], "model-x.safetensors": "gone"}}}))
        with pytest.raises(ConfigError, match=r"model-x\.safetensors is gone"):
            check_inputs({"base": {**source, "sha256": before[0]}}, file)
        assert ("model.safetensors.index.json" in before[0]) is sharded


# --- finished runs and what a user put into them ----------------------------------------------------------------------


def test_a_finished_run_is_left_alone(moved, main):
    Path("run/merged/notes.txt").write_text("mine")
    before = {path: time for path, time in listing(moved / "run").items() if path.is_file()}
    code, said, complaint = main("fit", "--config", "run/config.yaml", "--ckpt_path", "last")
    assert (code, complaint) == (0, "")
    assert "run: this run is finished, and nothing in it was changed" in said
    assert {path: time for path, time in listing(moved / "run").items() if path.is_file()} == before


def test_a_finished_run_that_goes_on_loses_nothing(moved, main):
    Path("run/merged/mood/notes.txt").write_text("mine")
    weights = next(file for file in Path("run/merged").glob("*.safetensors") if not file.is_symlink())
    trained = weights.read_bytes()[:-1] + b"\x01"
    weights.unlink()  # a hard link to those of the tasks
    weights.write_bytes(trained)  # trained further in place
    steps = str(json.loads(Path("run/metrics.json").read_text())["history"][-1]["step"] + 1)
    more = ("fit", "--config", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_steps")
    code, said, complaint = main(*more, steps)
    assert (code, complaint) == (0, "")
    assert "mood/notes.txt" in said
    assert Path("run/merged_1/mood/notes.txt").read_text() == "mine"
    assert not Path("run/merged/mood/notes.txt").exists()
    assert weights.name in said
    assert Path("run/merged_1", weights.name).read_bytes() == trained
    shutil.rmtree("run/merged_1")
    assert main(*more, str(int(steps) + 1))[0] == 0
    assert not Path("run/merged_1").exists()  # held nothing but the former export
    assert torch.isfinite(load_file("run/coefficients.safetensors")["coefficients"]).all()


def test_every_command_on_a_run_in_use_is_refused(moved, main):
    with used_alone(Path("run"), "adamerge fit"):
        for command in (
            ("export", "run", "out"),
            ("export", "run", "run/other"),
            ("evaluate", "run"),
            ("report", "run"),
            ("fit", "--config", "run/config.yaml", "--ckpt_path", "last"),
            ("fit", "--config", "merge.yaml", "--run_dir", "run"),
        ):
            code, _, complaint = main(*command)
            assert code == cli.BAD_INPUT
            assert f"run: expected a folder that no other process uses, but process {os.getpid()} on" in complaint
    assert not Path("out").exists()
