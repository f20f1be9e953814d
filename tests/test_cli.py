"""The command: what it writes and says, and that every mistake gets an answer rather than a traceback."""

import errno
import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from support.families import build, configuration, listing, save_rows, save_tokenizer, write
from support.processes import Strike, run, start

from adamerge import cli

MISTAKES = {}


def mistake(*words):
    """Registers what spoils a family or its configuration, with the words that must stand in the error."""

    def register(spoil):
        MISTAKES[spoil.__name__] = (spoil, words)
        return spoil

    return register


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


# --- checkpoints -----------------------------------------------------------------------------------------------------


@mistake("nowhere", "no folder of this name")
def model_directory_is_missing(folder, config):
    config["models"][0]["model"] = "nowhere"


@mistake("a/b/c", "there is no such directory")
def base_directory_is_missing(folder, config):
    config["base_model"] = "a/b/c"


@mistake("mood: expected a Hugging Face checkpoint", "config.json")
def no_configuration_beside_the_weights(folder, config):
    (folder / "mood/config.json").unlink()


@mistake("mood/config.json", "cannot read it")
def broken_configuration_beside_the_weights(folder, config):
    (folder / "mood/config.json").write_text("{")


@mistake("mood: expected model.safetensors")
def no_weights(folder, config):
    (folder / "mood/model.safetensors").unlink()


@mistake("mood/model.safetensors", "complete safetensors file", "copy or download it again")
def truncated_weights(folder, config):
    os.truncate(folder / "mood/model.safetensors", (folder / "mood/model.safetensors").stat().st_size - 100)


@mistake("topic/model.safetensors", "complete safetensors file")
def corrupt_header(folder, config):
    with (folder / "topic/model.safetensors").open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xfe{{{")


@mistake("topic/model.safetensors", "complete safetensors file")
def empty_weights(folder, config):
    (folder / "topic/model.safetensors").write_bytes(b"")


@mistake("the expert is a llama, but the base base is a bert")
def another_architecture(folder, config):
    shutil.rmtree(folder / "mood")
    build("LlamaForSequenceClassification", "llama", 1).save_pretrained(folder / "mood")


@mistake("BertForNothing", "does not have")
def unknown_architecture(folder, config):
    edit_json(folder / "mood/config.json", architectures=["BertForNothing"])


@mistake("mood: bert.encoder.layer.1.output.dense.weight has the shape (16, 40)", "(16, 32)")
def another_shape(folder, config):
    config_of = {"num_labels": 2, "intermediate_size": 40}
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**json.loads((folder / "base/config.json").read_text()), **config_of})
    )
    model.save_pretrained(folder / "mood")


@mistake("bert.pooler.dense.bias has the shape (7,) in the file but (16,) by config.json")
def another_shape_than_the_configuration_says(folder, config):
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({"bert.pooler.dense.bias": t["bert.pooler.dense.bias"][:7].clone()}),
    )


@mistake("mood: the file has no tensor for bert.pooler.dense.bias")
def missing_tensor(folder, config):
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.pop("bert.pooler.dense.bias"))


@mistake("no place for the tensor adapter.weight")
def tensor_too_many(folder, config):
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.update({"adapter.weight": torch.zeros(2)}))


@mistake("vocabularies differ: vocab_size is 44 here and 40 in the base base")
def another_vocabulary(folder, config):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "mood")
    model.resize_token_embeddings(44)
    model.save_pretrained(folder / "mood")


@mistake("mood (mood)", "equal the base's", "not an expert")
def expert_equal_to_the_base(folder, config):
    base = load_file(folder / "base/model.safetensors")
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.update({f"bert.{n}": v for n, v in base.items()}))


@mistake("topic (topic): bert.pooler.dense.weight has 2 NaN or infinite numbers")
def not_a_number(folder, config):
    def spoil(tensors):
        tensors["bert.pooler.dense.weight"][0, :2] = torch.tensor([torch.nan, torch.inf])

    edit_tensors(folder / "topic/model.safetensors", spoil)


@mistake("topic (topic): classifier.bias has 1 NaN or infinite numbers")
def not_a_number_in_a_head(folder, config):
    edit_tensors(folder / "topic/model.safetensors", lambda t: t["classifier.bias"].__setitem__(0, torch.inf))


@mistake("base: bert.pooler.dense.weight has 1 NaN")
def not_a_number_in_the_base(folder, config):
    edit_tensors(folder / "base/model.safetensors", lambda t: t["pooler.dense.weight"].__setitem__((0, 0), torch.nan))


@mistake("mood/pytorch_model.bin", "pickled", "allow_pickle: true")
def pickle_without_permission(folder, config):
    torch.save(load_file(folder / "mood/model.safetensors"), folder / "mood/pytorch_model.bin")
    (folder / "mood/model.safetensors").unlink()


@mistake("mood/pytorch_model.bin", "cannot read it")
def pickle_that_runs_code(folder, config):
    torch.save({"a": Runs()}, folder / "mood/pytorch_model.bin")
    (folder / "mood/model.safetensors").unlink()
    config["allow_pickle"] = True


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


@mistake("mood", "quantised")
def quantised_configuration(folder, config):
    edit_json(folder / "mood/config.json", quantization_config={"quant_method": "gptq", "bits": 4})


@mistake("mood: bert.pooler.dense.weight is quantised (torch.int8)")
def quantised_tensor(folder, config):
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({"bert.pooler.dense.weight": t["bert.pooler.dense.weight"].to(torch.int8)}),
    )


@mistake("mood: this is a LoRA adapter", "merge_and_unload")
def adapter(folder, config):
    (folder / "mood/config.json").rename(folder / "mood/adapter_config.json")


@mistake("model-00002-of-00002.safetensors: missing", "model.safetensors.index.json lists it")
def missing_shard(folder, config):
    tensors = load_file(folder / "mood/model.safetensors")
    (folder / "mood/model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i > 20)}-of-00002.safetensors" for i, name in enumerate(names)}
    first = {n: t for n, t in tensors.items() if files[n].startswith("model-00001")}
    save_file(first, folder / "mood/model-00001-of-00002.safetensors", {"format": "pt"})
    (folder / "mood/model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


@mistake("model.safetensors.index.json", "weight_map")
def broken_index(folder, config):
    (folder / "mood/model.safetensors").unlink()
    (folder / "mood/model.safetensors.index.json").write_text("[]")


# --- rows ------------------------------------------------------------------------------------------------------------


@mistake("mood: nowhere.jsonl: no such file")
def rows_are_missing(folder, config):
    config["models"][0]["calibration"] = "nowhere.jsonl"


@mistake("mood: expected calibration rows")
def no_calibration(folder, config):
    for model in config["models"]:
        del model["calibration"]


@mistake("mood: mood.jsonl: the objective learns from labels", "a column 'label'", "the columns are text", "Entropy")
def no_labels_to_learn_from(folder, config):
    config["objective"] = "CrossEntropy"


@mistake("topic: topic.jsonl: expected a column 'sentence', but the columns are text")
def missing_column(folder, config):
    config["models"][1]["calibration"] = {"path": "topic.jsonl", "text": "sentence"}


@mistake("mood_test.jsonl: expected a column 'label'")
def missing_label_column(folder, config):
    save_rows(folder / "mood_test.jsonl", 4, 0)


@mistake("mood: mood.jsonl", "empty")
def no_rows(folder, config):
    (folder / "mood.jsonl").write_text("")


@mistake("mood: mood.jsonl: row 3 is not JSON")
def broken_row(folder, config):
    lines = (folder / "mood.jsonl").read_text().splitlines()
    (folder / "mood.jsonl").write_text("\n".join([*lines[:2], '{"text": "the', *lines[2:]]))


@mistake("mood: mood.jsonl: row 2: expected a text in the column 'text', found None")
def row_without_text(folder, config):
    lines = (folder / "mood.jsonl").read_text().splitlines()
    (folder / "mood.jsonl").write_text("\n".join([lines[0], '{"text": null}', *lines[1:]]))


@mistake("mood: mood.jsonl", "UTF-8")
def rows_in_another_encoding(folder, config):
    (folder / "mood.jsonl").write_bytes('{"text": "schön"}\n'.encode("latin-1"))


@mistake("topic: topic_test.jsonl: row 1 has the label 7", "2 labels")
def label_out_of_range(folder, config):
    (folder / "topic_test.jsonl").write_text('{"text": "good", "label": 7}\n')


@mistake("topic: topic_test.jsonl: row 1 has the label 'sunny'")
def unknown_label(folder, config):
    (folder / "topic_test.jsonl").write_text('{"text": "good", "label": "sunny"}\n')


@mistake("no pad token", "tokenizer_config.json")
def no_pad_token(folder, config):
    save_tokenizer(folder / "base", pad=False)


@mistake("base: expected the tokenizer of BertForSequenceClassification beside the weights")
def no_tokenizer(folder, config):
    for file in (folder / "base").glob("tokenizer*"):
        file.unlink()


@mistake("speed: expected calibration rows (key calibration) of every task")
def fisher_as_centre_without_rows(folder, config):
    config["centre"] = "Fisher"
    del config["models"][2]["calibration"]


@mistake("./bert: expected a directory with a checkpoint", "there is no such directory")
def path_that_cannot_be_a_hub_id(folder, config):
    config["base_model"] = "./bert"


@mistake("expected a different name per expert, found mood twice")
def task_twice(folder, config):
    config["models"][1]["task"] = "mood"


@mistake("models: expected a name that can be the name of a folder, found 'a/b'")
def task_with_a_slash(folder, config):
    config["models"][1]["task"] = "a/b"


@mistake("parameters.base: embedings* matches no parameter. The most similar names are bert.embeddings.")
def pattern_that_matches_nothing(folder, config):
    config["parameters"] = {"base": ["embedings*"]}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained_and_nothing_is_written(family, main, name):
    spoil, words = MISTAKES[name]
    config = configuration()
    spoil(family, config)
    file = write(config)
    before = listing(family)
    code, _, complaint = main("fit", "--config", file, "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert complaint.startswith("error: ")
    assert len(complaint.splitlines()) <= cli.SCREEN
    for word in words:
        assert word in complaint
    code, listed, complaint = main("check", "--config", file, "--deep")
    assert code == cli.BAD_INPUT
    for word in words:
        assert word in listed + complaint
    assert listing(family) == before


def test_check_lists_every_problem_of_every_expert(family, main):
    config = configuration()
    for name in ("truncated_weights", "corrupt_header", "rows_are_missing"):
        MISTAKES[name][0](family, config)
    edit_tensors(family / "speed/model.safetensors", lambda t: t.pop("bert.pooler.dense.bias"))
    config["models"][2]["evaluation"] = "nowhere.jsonl"
    config["trainer"]["max_steps"] = -2
    before = listing(family)
    code, listed, _ = main("check", "--config", write(config))
    assert code == cli.BAD_INPUT
    problems = [line for line in listed.splitlines() if line.startswith("problem: ")]
    expected = (
        "trainer.max_steps",
        "mood/model.safe",
        "topic/model.safe",
        "speed: the file has no",
        "mood: nowhere",
        "speed: nowhere",
    )
    assert len(problems) == len(expected)
    for word, problem in zip(expected, problems, strict=True):
        assert word in problem
    assert listed.splitlines()[-1] == "6 problems found"
    (family / "changed.yaml").unlink()
    before.pop(family / "changed.yaml", None)
    assert listing(family) == before


@pytest.mark.parametrize("deep", [(), ("--deep",)])
def test_check_of_what_is_right(family, main, deep):
    before = listing(family)
    code, said, complaint = main("check", "--config", "merge.yaml", *deep)
    assert code == 0
    assert not complaint
    assert said.splitlines()[-1] == "no problem found"
    assert "coefficients: at most 39 groups × 3 experts = 117" in said
    assert ("‖expert − base‖ / ‖base‖" in said) is bool(deep)
    assert listing(family) == before


def test_an_expert_from_another_base_is_warned_about_by_name(family, main):
    edit_tensors(
        family / "speed/model.safetensors", lambda t: [tensor.copy_(torch.randn_like(tensor)) for tensor in t.values()]
    )
    code, said, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == 0
    assert not complaint
    assert "warning: speed (speed): ‖expert − base‖ is" in said
    assert "mood (mood)" not in said


def test_pickled_weights_are_read_with_permission(family, main):
    MISTAKES["pickle_without_permission"][0](family, {})
    assert main("fit", "--config", "merge.yaml", "--run_dir", "run", "--allow_pickle", "true")[0] == 0
    assert not (family / "pwned").exists()


# --- run directories -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(text_family, tmp_path_factory):
    """A finished run with its family, and what it printed."""
    place = shutil.copytree(text_family, tmp_path_factory.mktemp("finished") / "family")
    assert run(["fit", "--config", "merge.yaml", "--run_dir", "run"], place, place / "log.txt") == 0
    return place


@pytest.fixture
def in_finished(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


def test_a_run_prints_only_relevant_lines(in_finished):
    said = (in_finished / "log.txt").read_text()
    for noise in ("litlogger", "GPU", "TPU", "Warning", "warning", "weights_only", "Loading", "Trainer.fit", "it/s"):
        assert noise not in said
    looks = [line for line in said.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in looks] == ["0", "5", "10"]
    for word in ("loss", "agreement", "s/step", "c_min", "c_max"):
        assert word in looks[1]


def test_a_run_dir_that_exists_is_refused(in_finished, main):
    before = listing(in_finished)
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert "run: already exists. Choose another --run_dir, or resume its run with --ckpt_path last" in complaint
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "merge.yaml")
    assert code == cli.BAD_INPUT
    assert "merge.yaml: already exists" in complaint
    code, said, _ = main("check", "--config", "merge.yaml", "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert "problem: run: already exists" in said
    assert listing(in_finished) == before


def test_an_empty_run_dir_is_taken(family, main):
    (family / "run").mkdir()
    assert main("fit", "--config", "merge.yaml", "--run_dir", "run", "--trainer.max_steps", "1")[0] == 0


def test_nothing_to_resume(family, main):
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run", "--ckpt_path", "last")
    assert code == cli.BAD_INPUT
    assert "run: there is no run to resume" in complaint
    assert not (family / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--init", "0.4", "init (was published, is 0.4)"),
        ("--data.batch_size", "null", "data.batch_size (was 4, is None)"),
        ("--feasible", "Unbounded", "feasible.class_path"),
        (
            "--models",
            '[{"model": "mood", "calibration": "mood.jsonl", "evaluation": "mood_test.jsonl"}]',
            "models.1.model",
        ),
    ],
)
def test_resuming_with_another_configuration_is_refused(in_finished, main, option, value, key):
    before = listing(in_finished)
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run", option, value, "--ckpt_path", "last")
    assert code == cli.BAD_INPUT
    assert "run: the configuration differs from the run to be resumed" in complaint
    assert key in complaint
    assert listing(in_finished) == before


def test_export_and_evaluate_of_a_finished_run(in_finished, main):
    code, said, complaint = main("export", "run", "again/deeper", "--out_dtype", "bfloat16")
    assert (code, complaint) == (0, "")
    assert "mood: again/deeper/mood" in said
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained("again/deeper/mood")
    assert loaded.dtype == torch.bfloat16
    assert main("export", "run", "exact")[0] == 0
    first, second = (load_file(f"{place}/model-00001-of-00001.safetensors") for place in ("run/merged", "exact"))
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
    assert again["models"][2]["evaluation"] == str(family / "speed_test.jsonl")
    assert main("fit", "--config", write(again, "again.yaml"), "--run_dir", "again")[0] == 0
    first, second = (load_file(f"{place}/coefficients.safetensors") for place in (family / "run", "again"))
    assert torch.equal(first["coefficients"], second["coefficients"])


def test_a_run_dir_in_the_home_directory(family, main, monkeypatch):
    monkeypatch.setenv("HOME", str(family / "home"))
    assert main("fit", "--config", "merge.yaml", "--run_dir", "~/run", "--trainer.max_steps", "1")[0] == 0
    assert (family / "home/run/recipe.json").exists()
    assert not (family / "~").exists()


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--optimizer.lr", "1e30", "--feasible", "Unbounded"],
            "step 5: not a finite number: loss, objective, c_min, c_max. Lower the optimiser's learning rate",
        ),
        (["--trainer.max_time", "00:00:00:00"], "trainer.max_time: 00:00:00:00 was over before the first step"),
    ],
)
def test_learning_that_diverges_or_has_no_time_is_refused(family, main, options, words):
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run", *options)
    assert code == cli.BAD_INPUT
    assert words in complaint
    assert not (family / "run/merged").exists()


def test_mixed_precision_prints_no_warning(family, main):
    assert main("fit", "--config", "merge.yaml", "--run_dir", "run", "--trainer.precision", "bf16-mixed")[::2] == (
        0,
        "",
    )


# --- full disks ------------------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_noticed_before_learning(family, main, monkeypatch):
    monkeypatch.setattr(
        "adamerge.runs.run_directory.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1)
    )
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert "run: the disk is full" in complaint
    assert not (family / "run").exists()
    code, said, _ = main("check", "--config", "merge.yaml", "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert "problem: run: the disk is full" in said


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


def test_a_disk_that_is_really_full(family, main, monkeypatch):
    place = family / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        usage = shutil.disk_usage
        monkeypatch.setattr("adamerge.runs.run_directory.shutil.disk_usage", lambda place: usage("/"))
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
        subprocess.run(["umount", str(place)], check=True)


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["fti"],
            "there is no command fti; expected one of 'fit', 'check', 'export', 'evaluate', 'demo'. Did you mean fit?",
        ),
        (["fit"], "missing: base_model, models"),
        (["fit", "--config"], "--config: expected a value after it, found none."),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["fit", "--config", "."], ".: there is no such file"),
        (["fit", "merge.yaml"], "there is no option merge.yaml. Did you mean --config merge.yaml?"),
        (
            ["fit", "--config", "merge.yaml", "--gruping", "task"],
            "--gruping: there is no such key. Did you mean grouping?",
        ),
        (["fit", "--config", "merge.yaml", "--data.bach_size", "4"], "Did you mean batch_size?"),
        (
            ["fit", "--config", "merge.yaml", "--ckpt_path", "first"],
            "--ckpt_path: expected 'last' or null, found",
        ),
        (["fit", "--config", "merge.yaml", "--grouping", "blok"], "Did you mean block?"),
        (["export", "run"], "missing: out"),
        (["export", "run", "out", "--out_dtype", "float31"], "Did you mean float32?"),
        (["evaluate"], "missing: run"),
        (["--hlep"], "there is no option --hlep"),
    ],
)
def test_mistakes_on_the_command_line(family, main, arguments, words):
    code, _, complaint = main(*arguments)
    assert code == cli.BAD_INPUT
    assert words in complaint


def test_a_long_list_of_problems_fits_on_a_screen(family, main):
    another = transformers.BertConfig(**{**json.loads((family / "base/config.json").read_text()), "hidden_size": 8})
    transformers.BertForSequenceClassification(another).save_pretrained(family / "mood")
    code, _, complaint = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert len(complaint.splitlines()) == cli.SCREEN
    assert "more; `adamerge check` lists all" in complaint


# --- help and printing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)], ids=" ".join)
def test_help(main, capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert "[options]" not in said
    if command in (("fit",), ("check",)):
        assert "  base_model: models/base\n  models:\n    - {model: models/news, calibration: news.jsonl}\n" in said
        options = said.split("\n  --")[1:]
        lacking = [option.split()[0] for option in options if len(option.split("(type")[0].split()) < 4]
        assert not lacking


def test_no_command_prints_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 0
    assert "usage: adamerge COMMAND" in capsys.readouterr().out


def test_help_imports_no_heavy_library():
    script = "import sys, adamerge.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "transformers", "pytorch_lightning", "datasets", "matplotlib", "scipy"}


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"adamerge {version('adamerge')}\n"


def test_another_method_over_a_saved_configuration(in_finished, main, capsys):
    assert cli.main(["fit", "--config", "run/config.yaml", "--method", "ties", "--print_config"]) == 0
    switched = yaml.safe_load(capsys.readouterr().out)
    assert cli.main(["fit", "--config", "merge.yaml", "--method", "ties", "--print_config"]) == 0
    fresh = yaml.safe_load(capsys.readouterr().out)
    assert {key for key in fresh if fresh[key] != switched[key]} <= {"base_model", "models", "run_dir", "written"}


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "adamerge", "fti"], capture_output=True, text=True, check=False)
    assert done.returncode == cli.BAD_INPUT
    assert (
        done.stderr == "error: there is no command fti; expected one of 'fit', 'check', 'export', 'evaluate', 'demo'. "
        "Did you mean fit?\n"
    )


def test_print_config_shows_what_a_method_stands_for(family, main, capsys):
    for method, transform in (("adamerging", None), ("adamerging++", "adamerge.transforms.Ties")):
        arguments = ["fit", "--config", "merge.yaml", "--method", method, "--init", "0.4", "--print_config"]
        assert cli.main(arguments) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["base_model"] == "base"
        assert shown["init"] == 0.4
        assert shown["optimizer"]["init_args"]["lr"] == 0.02
        assert (shown["task_vectors"] or {}).get("class_path") == transform
        assert main("check", "--config", write(shown))[0] == 0


def test_a_long_path_stays_in_one_piece(family, main):
    run_dir = "a_folder_with_a_rather_long_name/" * 4 + "run"
    code, said, _ = main("fit", "--config", "merge.yaml", "--run_dir", run_dir, "--trainer.max_steps", "1")
    assert code == 0
    assert f"mood: {run_dir}/merged/mood\n" in said
    complaint = main("fit", "--config", "merge.yaml", "--run_dir", run_dir)[2]
    assert f"error: {run_dir}: already exists" in complaint


def test_a_terminal_shows_a_bar(family):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(["fit", "--config", "merge.yaml", "--run_dir", "run"], family, os.ttyname(theirs))
    shown = b""
    while process.is_alive() or os.get_blocking(ours):
        os.set_blocking(ours, False)
        try:
            shown += os.read(ours, 2**16)
        except BlockingIOError:
            process.join(0.05)
            if not process.is_alive():
                break
    os.close(theirs)
    os.close(ours)
    assert process.exitcode == 0
    bars = [line for line in shown.decode().replace("\n", "\r").split("\r") if line.startswith("10/10 ")]
    assert bars
    for word in ("loss=", "agreement=", "s/step=", "c_min=", "c_max="):
        assert word in bars[-1]
    assert max(map(len, bars)) <= 80
    assert "step 5 " not in shown.decode()
