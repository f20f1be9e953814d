"""A recipe is redone from coefficients and sources alone, and a change of either is refused by name."""

import json
import shutil

import pytest
import torch
from support.families import configuration, listing, write

from adamerge import cli
from adamerge.runs.exported_files import hash_export
from adamerge.types import ConfigError


@pytest.fixture
def own(in_finished, finished):
    """A copy of a finished run whose recipe names the models of the copy, which may be spoilt."""
    for name in ("recipe.json", "config.yaml"):
        text = (in_finished / "run" / name).read_text()
        (in_finished / "run" / name).write_text(text.replace(str(finished), str(in_finished)))
    return in_finished


def test_a_replay_is_byte_for_byte_the_export(own, main):
    (own / "alone").mkdir()
    for name in ("recipe.json", "coefficients.safetensors"):
        shutil.copy(own / "run" / name, own / "alone" / name)
    expected = hash_export(own / "run/merged")
    shutil.move(own / "run", own / "gone")
    code, said, complaint = main("replay", "alone/recipe.json", "again")
    assert (code, complaint) == (0, "")
    assert hash_export(own / "again") == expected
    assert f"identical: {len(expected)} files" in said
    assert not [path for path in own.iterdir() if path.name.startswith(".")]


def test_sources_that_moved_are_given_by_their_keys(own, main):
    """The same bytes come of other places, and of no other settings."""
    (own / "run/recipe.json").rename(own / "recipe.json")
    shutil.copy(own / "run/coefficients.safetensors", own)
    (own / "elsewhere").mkdir()
    for name in ("base", "mood", "run"):
        shutil.move(own / name, own / "elsewhere" / name)
    (own / "elsewhere/mood").rename(own / "elsewhere/feelings")  # the task keeps its name
    code, _, complaint = main("replay", "recipe.json", "again")
    assert code == cli.BAD_INPUT
    assert "recipe.json: base_model, models.0.model: expected the place of" in complaint
    assert "by --base_model PLACE --models.0.model PLACE." in complaint
    places = ["--base_model", "elsewhere/base", "--models.0.model", "elsewhere/feelings"]
    code, said, complaint = main("replay", "recipe.json", "again", *places)
    assert (code, complaint) == (0, "")
    assert "identical: " in said
    assert hash_export(own / "again") == hash_export(own / "elsewhere/run/merged")
    for words in (["--method", "ties"], ["--models.9.model", "mood"], ["--config", "merge.yaml"]):
        code, _, complaint = main("replay", "recipe.json", "other", *words)
        assert code == cli.BAD_INPUT
    assert "expected places of models and rows that recipe.json names (--base_model, " in complaint
    code, _, complaint = main("export", "elsewhere/run", "other")
    assert code == cli.BAD_INPUT
    assert "elsewhere/run/config.yaml: base_model, models.0.model: expected the place of" in complaint


@pytest.mark.parametrize("name", ["mood/model.safetensors", "base/config.json", "base/tokenizer.json"])
def test_one_changed_byte_in_a_source_is_refused_by_its_name(own, main, name):
    file = own / name
    content = bytearray(file.read_bytes())
    if name.endswith("safetensors"):
        content[-2] ^= 1
    file.write_bytes(content if name.endswith("safetensors") else content + b" ")
    code, _, complaint = main("replay", "run/recipe.json", "again")
    assert code == cli.BAD_INPUT
    folder, _, short = name.partition("/")
    assert f"{short} has other content" in complaint
    assert str(own / folder) in complaint
    assert not (own / "again").exists()
    assert main("reproduce", "run/recipe.json")[0] == cli.BAD_INPUT


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("base/config.json", lambda text: text.replace(b'"vocab_size": ', b'"vocab_size": 1'), "has other content"),
        ("mood/config.json", lambda text: b"{", "has other content"),
        ("topic/config.json", None, "is gone"),
        ("topic/adapter_config.json", lambda text: b"{}", "is new"),
        ("topic/model.safetensors", lambda text: b"9" + text[1:], "has other content"),
    ],
)
def test_sources_that_cannot_be_opened_any_more_are_named_as_changed(own, main, name, spoil, words):
    file = own / name
    file.write_bytes(spoil(file.read_bytes() if file.exists() else b"")) if spoil else file.unlink()
    again = ("fit", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "20")
    for command in (("replay", "run", "again"), ("reproduce", "run"), ("export", "run", "again"), again):
        code, _, complaint = main(*command)
        assert code == cli.BAD_INPUT
        assert "expected what this run was made from, but it changed since: " in complaint
        assert f"{file.name} {words}" in complaint
        assert str(file.parent) in complaint
    assert not (own / "again").exists()


def test_sources_that_are_the_same_are_not_called_changed(own, main, monkeypatch):
    def broken(config):
        raise ConfigError("too little memory")

    monkeypatch.setattr("adamerge.runs.unchanged_sources.open_experts", broken)
    assert "error: too little memory" in main("replay", "run", "again")[2]


def test_other_coefficients_are_refused(own, main):
    file = own / "run/coefficients.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    code, _, complaint = main("replay", "run", "again")
    assert code == cli.BAD_INPUT
    assert "run/coefficients.safetensors: expected the coefficients with SHA-256" in complaint
    assert not (own / "again").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_damaged_recipe_is_refused(own, main, content):
    file = own / "run/recipe.json"
    file.unlink() if content is None else file.write_text(content)
    code, _, complaint = main("replay", "run/recipe.json", "again")
    assert code == cli.BAD_INPUT
    assert "run/recipe.json: expected the recipe.json of a finished run" in complaint


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("card", lambda card: [1]),
        ("card", lambda card: {**card, "of_no_version": 1}),
        ("card", lambda card: {key: own for key, own in card.items() if key != "method"}),
        ("card", lambda card: {**card, "scores": {"learned": {"mood": "good"}}}),
        ("card", lambda card: {**card, "sources": [{"name": "base"}]}),
        ("files", lambda files: [*files]),
        ("files", lambda files: dict.fromkeys(files, 1)),
    ],
)
def test_a_recipe_that_was_edited_into_another_form_is_refused_before_anything_is_written(own, main, key, change):
    file = own / "run/recipe.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, key: change(content[key])}))
    code, _, complaint = main("replay", "run/recipe.json", "again")
    assert code == cli.BAD_INPUT
    assert "run/recipe.json: expected" in complaint
    assert key in complaint
    assert not (own / "again").exists()


def test_the_recipe_of_a_newer_version_is_refused(own, main):
    recipe = json.loads((own / "run/recipe.json").read_text())
    recipe["packages"]["adamerge"] = "0.10.0"
    recipe["config"] += "a_key_of_tomorrow: 1\n"
    (own / "run/recipe.json").write_text(json.dumps(recipe))
    go_on = ("fit", "--config", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "9")
    again = (("replay", "run", "again"), ("export", "run", "again"), ("evaluate", "run"), ("mergekit", "run", "m.yaml"))
    for command in (*again, ("reproduce", "run"), ("fit", "merge.yaml", "--init", "run", "--run_dir", "next"), go_on):
        code, _, complaint = main(*command)
        assert code == cli.BAD_INPUT
        assert "found one of 0.10.0, whose settings may mean something else here. Install it: pip install" in complaint


def test_another_result_is_said_with_the_files_that_differ(own, main):
    recipe = json.loads((own / "run/recipe.json").read_text())
    recipe["packages"]["torch"] = "1.0"
    recipe["files"]["mood/config.json"] = "0"
    (own / "run/recipe.json").write_text(json.dumps(recipe))
    code, _, complaint = main("replay", "run", "again")
    assert code == cli.BAD_INPUT
    assert "again: was written, but is not what the run exported: mood/config.json has other content" in complaint
    assert "torch 1.0 (now" in complaint
    assert (own / "again/mood").is_dir()


def test_learning_again_gives_the_same_coefficients(own, main):
    code, said, complaint = main("reproduce", "run/recipe.json")
    assert (code, complaint) == (0, "")
    assert "identical: 46 coefficients are bit for bit those of the run" in said
    file = own / "run/coefficients.safetensors"
    recipe = json.loads((own / "run/recipe.json").read_text())
    recipe["config"] = recipe["config"].replace("seed_everything: 0", "seed_everything: 1")
    (own / "run/recipe.json").write_text(json.dumps(recipe))
    code, _, complaint = main("reproduce", "run/recipe.json")
    assert code == cli.BAD_INPUT
    assert "expected the coefficients of the run, found others" in complaint
    assert file.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
@pytest.mark.parametrize("command", [["replay", "run", "again"], ["export", "run", "other"], ["reproduce", "run"]])
def test_devices_of_the_run_may_be_missing_here(own, main, command):
    for file in (own / "run/recipe.json", own / "run/config.yaml"):
        text = file.read_text().replace("accelerator: cpu", "accelerator: gpu")
        file.write_text(text.replace("devices: 1", "devices: 8"))
    code, said, complaint = main(*command)
    assert (code, complaint) == (0, "note: trainer.accelerator: gpu: this machine has none, so the CPU is used.\n")
    if command[0] == "reproduce":
        assert "note: the run learned on 8 devices; here on one" in said
    if command[0] != "export":
        assert "identical: " in said


def test_what_is_done_again_logs_nothing(family, main):
    """The logger's package may not be installed here, and its place has the curves of the run itself."""
    config = configuration()
    config["trainer"]["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "curves"}}
    assert main("fit", write(config), "--run_dir", "run")[0] == 0
    logged = listing(family / "curves")
    for file in (family / "run/recipe.json", family / "run/config.yaml"):
        named = file.read_text().replace("CSVLogger", "WandbLogger")
        assert "WandbLogger" in named
        file.write_text(named)
    for command in (["reproduce", "run"], ["replay", "run", "again"], ["export", "run", "other"], ["evaluate", "run"]):
        code, _, complaint = main(*command)
        assert (code, complaint) == (0, "")
    assert listing(family / "curves") == logged


def test_a_centre_from_rows_is_computed_again(family, main, monkeypatch):
    assert main("fit", "merge.yaml", "--method", "regmean", "--run_dir", "run", "--max_shard_size", "20KB")[0] == 0
    (family / "run/centre.safetensors").unlink()

    def interrupted(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("adamerge.results.export.compare_with_files", interrupted)
        code, _, complaint = main("replay", "run", "again")
    assert code == cli.INTERRUPTED
    assert all(f"What was written is in {place.name}" in complaint for place in family.glob(".again*"))
    code, said, complaint = main("replay", "run", "again")
    assert (code, complaint) == (0, "")
    assert "identical" in said
    assert "the export went on from one that was interrupted" in said  # of the centre that it has kept
    assert not list(family.glob(".*"))
    (family / "mood.jsonl").write_text((family / "topic.jsonl").read_text())
    code, _, complaint = main("replay", "run", "more")
    assert code == cli.BAD_INPUT
    assert "rows of mood" in complaint
