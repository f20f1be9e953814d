"""Files of processors, chat templates, and links out of a folder, as the installed transformers reads them."""

import ast
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import transformers
from huggingface_hub.utils import filter_repo_objects
from support.families import CHATS, save_tokenizer
from support.mistakes import edit_json
from transformers import AutoTokenizer

from adamerge.data.processor_files import TEMPLATES, files_of, has_tokenizer, template_of, templates_of
from adamerge.data.processors import saved_processor
from adamerge.data.text import Text
from adamerge.experts.file_patterns import DOWNLOADED, HEADS, PROCESSOR, TOKENIZER
from adamerge.types import ConfigError

NAMED = {"default": CHATS, "tool": "{{ messages[0]['content'] }}"}


@pytest.mark.parametrize("jinja", [True, False])
@pytest.mark.parametrize("template", [CHATS, NAMED], ids=["one", "named"])
def test_templates_are_those_that_transformers_loads(tmp_path, jinja, template):
    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path, save_jinja_files=jinja)
    loaded = AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert templates_of(tmp_path) == (loaded if isinstance(loaded, dict) else {"default": loaded})
    assert template_of(tmp_path) == CHATS


def test_a_template_file_replaces_that_of_the_settings(tmp_path):
    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = NAMED
    tokenizer.save_pretrained(tmp_path, save_jinja_files=False)
    (tmp_path / "chat_template.jinja").write_text("file")
    assert templates_of(tmp_path) == {"default": AutoTokenizer.from_pretrained(tmp_path).chat_template}


def test_every_file_of_every_tokenizer_of_transformers_is_known():
    root = Path(transformers.__file__).parent
    found = set()
    for file in root.glob("models/*/tokenization_*.py"):
        for text in re.findall(r"^VOCAB_FILES_NAMES = (\{.*?\})", file.read_text(encoding="utf-8"), re.DOTALL | re.M):
            found |= set(ast.literal_eval(text).values())
    assert len(found) > 15
    assert [name for name in found if not any(fnmatch(name, pattern) for pattern in TOKENIZER)] == []


@pytest.mark.parametrize(
    "name",
    [
        *("spiece.model", "source.spm", "bpe.codes", "vocab.bpe", "words.tiktoken", "chat_template.jinja", "mine.py"),
        *(
            "LICENSE",
            "LICENSE.txt",
            "Licence.md",
            "NOTICE",
            "COPYING",
            "USE_POLICY.md",
            "model_head.pkl",
            "modules.json",
        ),
        *("model_head.safetensors", "config_setfit.json", "generation_config.json", "video_preprocessor_config.json"),
        *("modules.json", "additional_chat_templates/tool.jinja", "1_Pooling/config.json", "2_Dense/pytorch_model.bin"),
    ],
)
def test_what_belongs_to_a_checkpoint_is_downloaded(name):
    """By the rule of huggingface_hub, for which `*` stands for folders too."""
    assert list(filter_repo_objects([name], allow_patterns=[*DOWNLOADED]))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.h5", "flax_model.msgpack", "training_args.bin", "a.png"])
def test_pickles_and_other_files_are_not(name):
    assert not list(filter_repo_objects([name], allow_patterns=[*DOWNLOADED]))


def test_every_pattern_that_is_read_is_downloaded():
    assert {*TOKENIZER, *PROCESSOR, *HEADS} <= {*DOWNLOADED}


def test_settings_without_a_vocabulary_are_a_tokenizer_only_for_one_that_needs_none(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert not has_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert has_tokenizer(tmp_path)


def test_links_out_of_a_folder_are_passed_over_but_not_those_of_the_hubs_cache(tmp_path):
    (tmp_path / "secret").write_text("secret")
    snapshot = tmp_path / "models--a--b/snapshots/main"
    blobs = tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    (blobs / "1").write_text("words")
    (snapshot / "vocab.txt").symlink_to("../../blobs/1")
    (snapshot / "tokenizer.json").symlink_to("../../../secret")
    (snapshot / "merges.txt").symlink_to("vocab.txt")
    (tmp_path / "link").symlink_to(snapshot)
    assert (
        files_of(snapshot, TOKENIZER).keys()
        == files_of(tmp_path / "link", TOKENIZER).keys()
        == {"vocab.txt", "merges.txt"}
    )


def test_links_of_the_hubs_cache_and_within_a_checkpoint_lead_to_named_templates(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/main", tmp_path / "models--a--b/blobs"
    (snapshot / TEMPLATES).mkdir(parents=True), (snapshot / "checkpoint-5").mkdir(), blobs.mkdir()
    (blobs / "1").write_text("tools")
    (tmp_path / "secret").write_text("secret")
    (snapshot / "chat_template.jinja").symlink_to("../../blobs/1")
    (snapshot / TEMPLATES / "tool_use.jinja").symlink_to("../../../blobs/1")
    (snapshot / TEMPLATES / "rag.jinja").symlink_to("../chat_template.jinja")
    (snapshot / TEMPLATES / "other.jinja").symlink_to("../../../../secret")
    (snapshot / "checkpoint-5/vocab.txt").symlink_to("../../../blobs/1")
    assert templates_of(snapshot) == {"default": "tools", "rag": "tools", "tool_use": "tools"}
    assert files_of(snapshot / "checkpoint-5", TOKENIZER).keys() == {"vocab.txt"}
    plain = shutil.copytree(snapshot / TEMPLATES, tmp_path / "plain" / TEMPLATES, symlinks=True).parent
    (plain / "chat_template.jinja").write_text("plain")
    assert templates_of(plain) == {"default": "plain", "rag": "plain"}


@pytest.mark.parametrize("content", ["", "{", "null", "[1]", "3", '"a"', "version https://git-lfs", "\ufeff{}"])
@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
def test_of_several_files_the_damaged_one_is_named(tmp_path, name, content):
    place = tmp_path / "two"
    save_tokenizer(place)
    (place / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"two: expected the tokenizer in {name}, but .* Copy its files again"):
        saved_processor(place, None, Text())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("chat_template", [{"name": "tool"}], "chat_template: expected a text, or a list of templates"),
        ("chat_template", {"default": 3}, "chat_template: expected a text, or a list of templates"),
        ("model_input_names", [["input_ids"]], "expected a list of texts as model_input_names"),
        ("unk_token", "", "expected one of the tokenizer's tokens as unk_token in tokenizer_config.json, found ''"),
    ],
)
def test_settings_that_transformers_takes_and_fails_by_later_are_refused_by_key(tmp_path, key, value, words):
    save_tokenizer(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", **{key: value})
    with pytest.raises(ConfigError, match=re.escape(words)):
        _ = templates_of(tmp_path), saved_processor(tmp_path, None, Text())
