"""An export carries what its experts share beside their weights; a task with other files gets a folder of its own."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support.families import CHATS, build, save_speaking_family, save_tokenizer
from support.sentence_encoders import TASKS, TEXTS, as_sentence_encoder, cosines, save_encoders
from transformers import AutoTokenizer

from adamerge import Expert, Merge
from adamerge.results.export import check_free
from adamerge.results.turn_notes import turn_notes
from adamerge.results.whose_files import plan_of
from adamerge.runs.build_model import open_experts
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError, IncompatibleExpertsError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base


def opened():
    return open_experts(merge_config({"base_model": "base", "models": [{"model": task} for task in TASKS]}))


def merged():
    """Export a merge whose coefficients are all 0.3; return what was written, and the notes."""
    result = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic").learn()
    return result.export("out"), "\n".join(plan_of(result.model.experts).notes)


@pytest.fixture
def encoders(tmp_path, monkeypatch):
    """A BERT base and two experts near it, with tokenizers, in the current directory."""
    monkeypatch.chdir(save_encoders(tmp_path))
    return tmp_path


@pytest.mark.parametrize("plain", [True, False], ids=["plain base", "sentence encoder"])
def test_a_merge_of_sentence_encoders_is_one(encoders, plain):
    for seed, name in enumerate(TASKS if plain else ("base", *TASKS)):
        as_sentence_encoder(name, seed)
    dense = {name: load_file(f"{name}/2_Dense/model.safetensors") for name in (TASKS if plain else ("base", *TASKS))}
    done, notes = merged()
    mood, topic = (dense[task] for task in TASKS)
    if plain:
        expected = {name: (mood[name] + topic[name]) / 2 for name in mood}
        assert "mean means little" in notes
    else:
        expected = {n: b + 0.3 * (mood[n] - b) + 0.3 * (topic[n] - b) for n, b in dense["base"].items()}
        assert "merged with the mean coefficient" in notes
    assert cosines(done.folder, expected).min() > 0.99999
    assert "get" in notes or not plain
    for task, place in done.checkpoints.items():
        assert (place == done.folder) is not plain
        assert cosines(place, dense[task] if plain else expected).min() > 0.99999


def test_modules_that_differ_are_kept_per_task(encoders):
    for seed, task in enumerate(TASKS):
        as_sentence_encoder(task, seed, size=8 - seed)
    done, _ = merged()
    kinds = [type(module).__name__ for module in SentenceTransformer(str(done.folder), device="cpu")]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    for seed, task in enumerate(TASKS):
        assert SentenceTransformer(str(done.folder / task), device="cpu").encode(TEXTS).shape == (3, 8 - seed)


def test_a_classifier_from_a_sentence_encoder_has_no_modules(encoders):
    as_sentence_encoder("base", 0)
    for seed, task in enumerate(TASKS):
        build("BertForSequenceClassification", "bert", seed).save_pretrained(task)
    done, _ = merged()
    assert SentenceTransformer(str(done.folder), device="cpu").encode(TEXTS).shape == (3, 8)
    assert not list((done.folder / "mood").glob("*modules*")) + list((done.folder / "mood").glob("*_*/"))


class Trap:
    """Writes a file where it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("opened"),))


def test_heads_in_pickles_are_copied_and_never_opened(encoders):
    for task in TASKS:
        (encoders / task / "model_head.pkl").write_bytes(pickle.dumps([task, Trap()]))
        (encoders / task / "config_setfit.json").write_text("{}")
    done, notes = merged()
    for task, place in done.checkpoints.items():
        assert (place / "model_head.pkl").read_bytes() == (encoders / task / "model_head.pkl").read_bytes()
        transformers.AutoModel.from_pretrained(place)
    assert "mood: model_head.pkl" in notes
    assert not (done.folder / "model_head.pkl").exists()
    assert not Path("opened").exists()


# --- only what a checkpoint needs -------------------------------------------------------------------------------------


def test_nothing_else_is_copied_and_it_is_said(encoders):
    (encoders / "secret").write_text("key")
    base = encoders / "base"
    for name in (".env", "id_rsa", "optimizer.pt", "events.out.tfevents.1", "run.py", "training_args.bin", "LICENSE"):
        (base / name).write_text("x")
    (base / "checkpoint-5").mkdir()
    (base / "checkpoint-5/config.json").write_text("{}")
    (base / "chat_template.jinja").symlink_to("../secret")
    (base / "tokenizer.json").chmod(0o444)
    done, notes = merged()
    names = {path.name for path in done.folder.rglob("*")}
    own = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "LICENSE"}
    assert names == {*own, "README.md"}  # the last is the merge's own card
    assert os.access(done.folder / "tokenizer.json", os.W_OK)
    assert (done.folder / "tokenizer.json").stat().st_mode & 0o200
    assert "(7 files or folders): .env, checkpoint-5/" in notes
    assert "not followed when files are copied: chat_template.jinja" in notes


def test_code_is_copied_only_where_it_may_run(encoders):
    config = json.loads((encoders / "base/config.json").read_text())
    config["auto_map"] = {"AutoModel": "mine.Model", "AutoConfig": "else/where--mine.Config"}
    (encoders / "base/config.json").write_text(json.dumps(config))
    (encoders / "base/mine.py").write_text("raise SystemExit")
    settings = json.loads((encoders / "base/tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": [None, "mine.Tokenizer"], "AutoProcessor": "else/where--mine.Processor"}
    for file in encoders.glob("*/tokenizer_config.json"):
        file.write_text(json.dumps(settings))
    done, notes = merged()
    assert not (done.folder / "mine.py").exists()
    assert "mine.py" in notes
    found = json.loads((done.folder / "config.json").read_text())
    assert found["auto_map"] == {"AutoConfig": "else/where--mine.Config"}
    found = json.loads((done.folder / "tokenizer_config.json").read_text())
    assert found == {**settings, "auto_map": {"AutoProcessor": "else/where--mine.Processor"}}


def test_a_folder_of_templates_that_leads_elsewhere_is_not_followed(encoders):
    (encoders / "secrets").mkdir()
    (encoders / "secrets/tool.jinja").write_text("key")
    (encoders / "base/additional_chat_templates").symlink_to("../secrets")
    done, notes = merged()
    assert not (done.folder / "additional_chat_templates").exists()
    assert "not followed when files are copied: additional_chat_templates" in notes


@pytest.mark.parametrize("name", ["1_Pooling", "additional_chat_templates", "Readme.md", "LICENSE"])
def test_a_task_has_no_name_of_what_an_export_has_beside_it(encoders, name):
    as_sentence_encoder("topic", 0)
    (encoders / "topic/LICENSE").touch()
    models = [{"model": "mood", "task": name}, {"model": "topic"}]
    with pytest.raises(IncompatibleExpertsError, match=f"a name that no file of the merged folder has, found '{name}'"):
        open_experts(merge_config({"base_model": "base", "models": models}))


def test_a_broken_link_is_no_free_folder(tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="out: exists already"):
        check_free(tmp_path / "out")


@pytest.mark.parametrize("place", ["file/out", "file/deep/out", "link/out"])
def test_a_place_below_what_is_no_folder_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=rf"{place}: lies below \S+/{place[:4]}, which is no folder; choose another"):
        check_free(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_generation_settings_that_transformers_refuses_are_said_and_no_reason_to_fail(encoders):
    (encoders / "base/generation_config.json").write_text('{"max_new_tokens": 0}')
    done, notes = merged()
    assert "base: generation_config.json: transformers refuses these settings (`max_new_tokens` must be" in notes
    assert any("the merged checkpoint: generation_config.json: transformers refuses" in note for note in done.notes)
    assert (done.folder / "generation_config.json").read_text() == '{\n  "max_new_tokens": 0\n}\n'


@pytest.mark.parametrize("name", ["generation_config.json", "modules.json", "preprocessor_config.json"])
def test_settings_that_cannot_be_read_are_named(encoders, name):
    (encoders / "mood" / name).write_text("{")
    assert f"mood: {name}: expected JSON, which cannot be read; taken as absent" in "\n".join(plan_of(opened()).notes)


# --- names of files -----------------------------------------------------------------------------------------------


def test_safetensors_replaces_a_file_rather_than_its_content(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    os.link(tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    assert torch.equal(load_file(tmp_path / "two.safetensors")["a"], torch.zeros(2))


# --- language models ----------------------------------------------------------------------------------------------


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A language model and two experts without tokenizers of their own."""
    monkeypatch.chdir(save_speaking_family(tmp_path, "LlamaForCausalLM", "llama"))
    for file in tmp_path.glob("*/generation_config.json"):
        file.unlink()
    return tmp_path


def bring(folder, template=CHATS, stops=(1, 2), **more):
    """Give an expert a tokenizer with a chat template, and end tokens."""
    save_tokenizer(folder, end="[SEP]")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    transformers.GenerationConfig(eos_token_id=list(stops), **more).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": list(stops)}))


def test_chat_experts_of_a_plain_base_give_their_templates_and_ends(family):
    named = {"default": CHATS, "tool": "{{ messages[0]['content'] }} [SEP]"}
    bring(family / "mood", named, temperature=0.5, do_sample=True)
    bring(family / "topic", named, (2, 1), temperature=0.7, do_sample=True)
    (family / "topic/tokenizer_config.json").write_text(
        json.dumps({**json.loads((family / "topic/tokenizer_config.json").read_text()), "name_or_path": "elsewhere"})
    )
    done, notes = merged()
    assert AutoTokenizer.from_pretrained(done.folder).chat_template == named
    assert transformers.GenerationConfig.from_pretrained(done.folder).eos_token_id == [1, 2]
    model = transformers.AutoModelForCausalLM.from_pretrained(done.folder)
    assert (model.config.eos_token_id, model.generation_config.eos_token_id) == ([1, 2], [1, 2])
    assert "chat template, generation settings, special tokens of config.json of mood, topic, not the base's" in notes
    model.lm_head.weight.data[:] = model.lm_head.weight.data[1:2] * torch.linspace(0.5, 1, 40)[:, None]
    for end in (1, 2):  # a model that says nothing but one of the ends stops there
        with torch.no_grad():
            bias = torch.full((40,), -1e9)
            bias[end] = 0
            model.lm_head.bias = torch.nn.Parameter(bias)
            answer = model.generate(torch.tensor([[5, 6]]), max_new_tokens=4, do_sample=False, pad_token_id=3)
        assert answer[0].tolist() == [5, 6, end]
    assert {task: place.name for task, place in done.checkpoints.items()} == {"mood": "mood", "topic": "topic"}
    assert transformers.GenerationConfig.from_pretrained("out/topic").temperature == 0.7


def test_ends_in_config_json_alone_count(family):
    for task in TASKS:
        config = json.loads((family / task / "config.json").read_text())
        (family / task / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    transformers.GenerationConfig(eos_token_id=1, pad_token_id=2).save_pretrained("base")
    done, _ = merged()
    found = transformers.AutoModelForCausalLM.from_pretrained(done.folder)
    assert (found.config.eos_token_id, found.generation_config.eos_token_id) == (7, 7)
    assert found.generation_config.pad_token_id == 2


SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}


def test_generation_settings_are_not_mixed_into_what_nobody_had(family):
    (family / "base/generation_config.json").write_text(json.dumps({**SAMPLING, "eos_token_id": 1}))
    for task in TASKS:
        (family / task / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": 1}))
    assert plan_of(opened()).root.generation == {"do_sample": False, "eos_token_id": 1}
    transformers.GenerationConfig(**SAMPLING | {"do_sample": True}).validate(strict=True)
    with pytest.raises(ValueError, match="do_sample"):
        transformers.GenerationConfig(**SAMPLING | {"do_sample": False}).validate(strict=True)


def test_a_task_without_a_setting_of_the_merge_differs_from_it(family):
    for name in ("base", "topic"):
        (family / name / "generation_config.json").write_text(json.dumps({**SAMPLING, "eos_token_id": 1}))
    (family / "mood/generation_config.json").write_text(json.dumps({"do_sample": True, "eos_token_id": 1}))
    plan = plan_of(opened())
    assert "mood: has its own generation settings" in "\n".join(plan.notes)
    assert plan.tasks["mood"].generation == {"do_sample": True, "eos_token_id": 1}


def test_the_merge_stops_at_the_end_of_a_turn_where_every_task_has_a_folder_too(family):
    (family / "base/chat_template.jinja").write_text(CHATS)
    for size, name in enumerate(("base", *TASKS), 1):
        (family / name / "generation_config.json").write_text(json.dumps({"eos_token_id": 5, "max_new_tokens": size}))
    done, _ = merged()
    assert done.folder not in done.checkpoints.values()
    for place in (done.folder, *done.checkpoints.values()):
        assert json.loads((place / "generation_config.json").read_text())["eos_token_id"] == [5, 1]
    assert [note for note in done.notes if "turn" in note] == turn_notes(opened(), adapter=False)
    assert len(turn_notes(opened(), adapter=False)) == 3


def test_experts_without_files_leave_the_bases_silently(family):
    done, notes = merged()
    assert notes == ""
    assert set(done.checkpoints.values()) == {done.folder}
