"""Implementations that config.json names do not reach transformers, unless torch and transformers hold them."""

import json

import pytest
import transformers
from support.families import TEXT, VISION, build

from adamerge.experts import own_class
from adamerge.experts.checkpoint import open_checkpoint

FOREIGN = ["nobody/kernel", "nobody/kernel@main:attention", "flash_attention_2", "paged|nobody/kernel", "unknown"]


def changed(folder, **keys):
    file = folder / "config.json"
    content = json.loads(file.read_text())
    for path, value in keys.items():
        place = content
        *parts, last = path.split("__")
        for part in parts:
            place = place[part]
        place[last] = value
    file.write_text(json.dumps(content))


@pytest.fixture
def asked(monkeypatch):
    """What transformers is asked to use when it builds a model."""
    seen = []
    original = transformers.PreTrainedModel._check_and_adjust_attn_implementation

    def check(self, attn_implementation, *args, **more):
        seen.append(attn_implementation)
        return original(
            self, attn_implementation if attn_implementation in (None, "eager", "sdpa") else None, *args, **more
        )

    monkeypatch.setattr(transformers.PreTrainedModel, "_check_and_adjust_attn_implementation", check)
    return seen


def opened(folder):
    checkpoint = open_checkpoint(str(folder))
    own_class.own_module(checkpoint)
    return checkpoint


@pytest.mark.parametrize("value", FOREIGN)
def test_foreign_attention_is_not_asked_for_and_said(tmp_path, asked, value):
    build("LlamaForCausalLM", "llama", 0).save_pretrained(tmp_path)
    changed(tmp_path, attn_implementation=value)
    asked.clear()
    checkpoint = opened(tmp_path)
    assert asked
    assert set(asked) <= {None, "eager", "sdpa"}
    assert any(f"attn_implementation: {value}" in note and "ignored" in note for note in checkpoint.notes)
    assert "attn_implementation" not in checkpoint.settings()


@pytest.mark.parametrize("value", ["nobody/kernel", ["sdpa"], 1])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
def test_values_under_names_of_attributes_and_values_that_name_nothing_are_said(tmp_path, asked, key, value):
    build("LlamaForCausalLM", "llama", 0).save_pretrained(tmp_path)
    changed(tmp_path, **{key: value})
    asked.clear()
    checkpoint = opened(tmp_path)
    assert {*map(str, asked)} <= {"None", "eager", "sdpa"}
    assert any(f"{key}: {value}" in note and "ignored" in note for note in checkpoint.notes)
    assert key not in checkpoint.settings()


@pytest.mark.parametrize("value", ["eager", "sdpa"])
def test_attention_of_torch_is_kept(tmp_path, asked, value):
    build("LlamaForCausalLM", "llama", 0).save_pretrained(tmp_path)
    changed(tmp_path, attn_implementation=value)
    asked.clear()
    checkpoint = opened(tmp_path)
    assert value in asked
    assert not checkpoint.notes
    assert checkpoint.settings()["attn_implementation"] == value


@pytest.mark.parametrize(
    "keys",
    [
        {"attn_implementation": {"": "eager", "text_config": "nobody/kernel"}},
        {"text_config__attn_implementation": "nobody/kernel"},
        {"vision_config__experts_implementation": "nobody/kernel"},
    ],
)
def test_parts_of_a_model_are_looked_at_too(tmp_path, asked, keys):
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    changed(tmp_path, **keys)
    asked.clear()
    checkpoint = opened(tmp_path)
    assert not {value for value in asked if value not in (None, "eager", "sdpa")}
    assert any("nobody/kernel" in note for note in checkpoint.notes)
    assert "nobody/kernel" not in json.dumps(checkpoint.settings())
