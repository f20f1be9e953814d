"""Files of earlier saves that transformers still reads: chat_template.json, and an index whose files are gone."""

import json
import shutil
from pathlib import Path

import pytest
from support.families import CHATS, build, save_speaking_family, save_tokenizer
from transformers import AutoProcessor, AutoTokenizer, CLIPImageProcessor, LlavaProcessor

from adamerge import Expert, Merge
from adamerge.data.processor_files import template_of, templates_of
from adamerge.results.loading import INDEX, loading_of
from adamerge.results.model_card import CardFacts, Source, card

OLD = "OLD {{ messages[0]['content'] }}"
TASKS = ("mood", "topic")


def save_processor(folder):
    images = CLIPImageProcessor(size=16, crop_size=16)
    made = LlavaProcessor(images, AutoTokenizer.from_pretrained(folder), patch_size=8, image_token="film")
    made.chat_template = None
    made.save_pretrained(folder)


def save_old(folder, text=OLD):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": text}))


@pytest.mark.parametrize("jinja", [True, False])
def test_a_processor_prefers_the_old_file_and_so_do_we(tmp_path, jinja):
    save_tokenizer(tmp_path)
    save_processor(tmp_path)
    save_old(tmp_path)
    if jinja:
        (tmp_path / "chat_template.jinja").write_text(CHATS)
    assert template_of(tmp_path) == AutoProcessor.from_pretrained(tmp_path).chat_template == OLD
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == (CHATS if jinja else None)


def test_a_processor_refuses_the_old_file_beside_named_templates(tmp_path):
    save_tokenizer(tmp_path)
    save_processor(tmp_path)
    save_old(tmp_path)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/rag.jinja").write_text("R")
    with pytest.raises(ValueError, match="legacy"):
        AutoProcessor.from_pretrained(tmp_path)
    assert templates_of(tmp_path) == {"rag": "R", "default": OLD}


@pytest.mark.parametrize(
    ("beside", "content", "expected"),
    [
        ("chat_template.jinja", CHATS, CHATS),
        ("tokenizer_config.json", json.dumps({"chat_template": CHATS}), CHATS),
        ("NOTICE", "", OLD),
    ],
)
def test_without_a_processor_the_old_file_comes_last(tmp_path, beside, content, expected):
    save_old(tmp_path)
    (tmp_path / beside).write_text(content)
    assert template_of(tmp_path) == expected


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": 3}'])
def test_an_old_file_without_a_template_has_none(tmp_path, content):
    (tmp_path / "chat_template.json").write_text(content)
    assert templates_of(tmp_path) == {}


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    folder = save_speaking_family(tmp_path_factory.mktemp("speaking"), "LlamaForCausalLM", "llama")
    for name in ("base", *TASKS):
        save_tokenizer(folder / name, end="[SEP]")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("named", [True, False])
def test_the_bases_old_file_is_not_beside_the_experts_template(speaking, tmp_path, monkeypatch, named):
    monkeypatch.chdir(shutil.copytree(speaking, tmp_path / "pool"))
    save_old(Path("base"))
    for place in map(Path, TASKS):
        if named:
            (place / "chat_template.jinja").write_text(CHATS)
            (place / "additional_chat_templates").mkdir()
            (place / "additional_chat_templates/rag.jinja").write_text("R")
        else:
            save_old(place, CHATS)
    result = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic").learn()
    done = result.export(tmp_path / "out")
    save_processor(done.folder)
    assert not (done.folder / "chat_template.json").exists()
    found = AutoProcessor.from_pretrained(done.folder).chat_template
    assert (found if isinstance(found, str) else found["default"]) == CHATS
    assert {*done.checkpoints.values()} == {done.folder}
    stops = json.loads((done.folder / "generation_config.json").read_text())["eos_token_id"]
    ends = AutoTokenizer.from_pretrained(done.folder).convert_tokens_to_ids("[SEP]")
    assert ends in (stops if isinstance(stops, list) else [stops])


def test_an_index_stays_when_one_file_replaces_several(tmp_path):
    model = build("LlamaForCausalLM", "llama", 0)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    facts = CardFacts([Source("base", "b"), Source("mood", "m")], "average", ["…"])
    assert INDEX in card(facts, {"": loading_of(tmp_path)}, None, "merged")
    model.save_pretrained(tmp_path)
    assert (tmp_path / INDEX).exists()
    assert {file.name for file in tmp_path.glob("*.safetensors")} == {"model.safetensors"}
    (tmp_path / INDEX).unlink()
    assert INDEX not in card(facts, {"": loading_of(tmp_path)}, None, "merged")
