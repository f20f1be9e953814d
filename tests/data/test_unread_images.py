"""Rows of images and text are refused with row, column and missing file, never read as text alone."""

import datasets
import pytest
from PIL import Image
from support.families import TEXT, VISION, build, save_tokenizer
from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

from adamerge.data.encode import encode
from adamerge.data.records import Arrow, Listed
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


def test_a_processor_that_cannot_be_loaded_is_named_with_the_reason_and_texts_are_read(tokenizer, tmp_path):
    """Qwen2-VL's processor needs torchvision, for example."""
    model = llava()
    model.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "NobodysProcessor"}')
    model.config._name_or_path = str(tmp_path)
    with pytest.raises(ConfigError, match=rf"row 1 .*'image', but its images need a processor, and .*{tmp_path}"):
        read({"text": ["good"], "image": [str(tmp_path / "a.png")]}, model, tokenizer)
    assert set(read({"text": ["good"]}, model, tokenizer).rows.batch([0]).inputs) == {"input_ids", "attention_mask"}


UNREAD = {
    "no type": asks(image="a.png"),
    "address": asks(type="image_url", image_url={"url": "data:image/png;base64,AAAA"}),
    "audio": asks(type="input_audio", input_audio={"data": "AAAA", "format": "wav"}),
    "audio without type": asks(audio="a.wav"),
    "video": asks(type="video", video="a.mp4"),
    "another type": asks(type="file", file={"file_id": "1"}),
    "beside the text": [{"role": "user", "content": "good", "images": ["a.png"]}],
}


@pytest.mark.parametrize("name", UNREAD)
def test_every_spelling_in_a_message_is_refused_by_row(tokenizer, name):
    plain = [{"role": "user", "content": "good"}]
    table = Table(Listed({"messages": [plain, UNREAD[name]]}), DataSource("rows"), "mood")
    for module in (llava(), build("LlamaForCausalLM", "llama", 0)):
        with pytest.raises(ConfigError, match=r"row 2 has something that is not text.* in the column 'messages'"):
            encode(table, Expert("mood", module.eval(), InMemory({}), ()), tokenizer, Encoding())


@pytest.mark.parametrize("column", ["image", "images", "image_url", "image_path", "photo"])
def test_every_name_of_a_column_is_refused_by_row(tokenizer, column):
    with pytest.raises(ConfigError, match=rf"row 2 has something .*a.png is missing.*'{column}'"):
        read({"text": ["good", "bad"], column: [None, "a.png"]}, llava(), tokenizer)
