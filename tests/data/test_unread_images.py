"""Rows of images and text are refused with row, column and missing file, never read as text alone."""

import datasets
import pytest
from PIL import Image
from support.families import TEXT, VISION, build, save_tokenizer
from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

from adamerge.data.encode import encode
from adamerge.data.records import Arrow
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def llava():
    text = {**TEXT, "model_type": "llama"}
    vision = {**VISION, "model_type": "clip_vision_model", "projection_dim": 12}
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=39))


def read(columns, module, tokenizer, **source):
    table = Table(Arrow(datasets.Dataset.from_dict(columns)), DataSource("rows", **source), "mood")
    return encode(table, Expert("mood", module.eval(), InMemory({}), ()), tokenizer, Encoding())


def asks(**part):
    return [{"role": "user", "content": [{"type": "text", "text": "good"}, part]}]


ROWS = {
    "paths": ({"text": ["good", "bad"], "image": [None, "nowhere.png"]}, "row 2 .*nowhere.png is missing.*'image'"),
    "lists": ({"text": ["good"], "images": [["nowhere.png"]]}, "row 1 .*nowhere.png is missing.*'images'"),
    "pictures": (
        {"text": ["good"], "image": [Image.new("RGB", (4, 4))]},
        "row 1 has something .* in the column 'image'",
    ),
    "messages": ({"messages": [asks(type="image", path="nowhere.png")]}, "row 1 .*nowhere.png is missing.*'messages'"),
    "a place": ({"messages": [asks(type="image")]}, "row 1 has something .* in the column 'messages'"),
}


@pytest.mark.parametrize("name", ROWS)
def test_images_beside_text_are_refused(tokenizer, name):
    columns, words = ROWS[name]
    with pytest.raises(ConfigError, match=f"mood: rows: {words}"):
        read(columns, llava(), tokenizer)


def test_column_of_another_name(tokenizer):
    with pytest.raises(ConfigError, match=r"row 1 .*'picture'"):
        read({"text": ["good"], "picture": ["nowhere.png"]}, llava(), tokenizer, image="picture")


def test_text_alone_is_read(tokenizer):
    found = read({"text": ["good film", "bad"]}, llava(), tokenizer)
    assert set(found.rows.batch([0, 1]).inputs) == {"input_ids", "attention_mask"}


def test_images_that_no_model_reads_are_noted(tokenizer):
    found = read({"text": ["good film"], "image": ["a.png"]}, build("LlamaForCausalLM", "llama", 0), tokenizer)
    assert found.notes == ("mood: rows: LlamaForCausalLM does not read the column 'image'.",)


def test_columns_are_found_by_their_type(tokenizer, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    data = datasets.Dataset.from_dict({"text": ["good"], "scan": [str(tmp_path / "a.png")]})
    table = Table(Arrow(data.cast_column("scan", datasets.Image())), DataSource("rows"), "mood")
    with pytest.raises(ConfigError, match=r"row 1 .*'scan'"):
        encode(table, Expert("mood", llava().eval(), InMemory({}), ()), tokenizer, Encoding())
