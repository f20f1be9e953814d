"""Rows of images and text: LLaVA and Idefics3 (SmolVLM's parent), against plain transformers on each row."""

import base64
import json
import math
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from PIL import Image
from support.families import TEXT, VISION, save_tokenizer
from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin

from adamerge import ConfigError, Merge
from adamerge import Expert as AnExpert
from adamerge.data.encode import encode
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import load_table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory

TEMPLATE = (
    "{% for m in messages %}{{ 'film' if m.role == 'user' else 'book' }} {% for p in m.content %}"
    "{% if p.type == 'image' %}PLACE {% else %}{{ p.text }} {% endif %}{% endfor %}[SEP] {% endfor %}"
    "{% if add_generation_prompt %}book {% endif %}"
)
DECODER = {**TEXT, "vocab_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 256}
TOKENS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]


def llava(tokenizer):
    config = transformers.LlavaConfig(
        text_config={**DECODER, "model_type": "llama"}, image_token_index=40,
        vision_config={**VISION, "model_type": "clip_vision_model", "projection_dim": 12},
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("PLACE", "<image>"),
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), processor


def idefics(tokenizer):
    config = transformers.Idefics3Config(
        text_config={**DECODER, "model_type": "llama"}, vision_config={**VISION, "image_size": 16, "patch_size": 4},
        image_token_id=40, scale_factor=2,
    )  # fmt: skip
    size = {"longest_edge": 32}
    images = transformers.Idefics3ImageProcessor(
        size=size, max_image_size={"longest_edge": 16}, do_image_splitting=True
    )
    processor = transformers.Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=TEMPLATE.replace("PLACE", "<image>")
    )
    return transformers.Idefics3ForConditionalGeneration(config), processor


MODELS = {"llava": llava, "idefics": idefics}


class Pool(NamedTuple):
    """A base and two experts on disk, and what the first one brings."""

    folder: Path
    expert: Expert
    processor: ProcessorMixin


@pytest.fixture(scope="module", params=MODELS)
def pool(request, tmp_path_factory):
    """A base and two experts with their processors, and pictures."""
    folder = tmp_path_factory.mktemp(request.param)
    save_tokenizer(folder / "tokenizer", end="[SEP]")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
    torch.manual_seed(0)
    model, processor = MODELS[request.param](tokenizer)
    for name, noise in {"base": 0.2, "a": 0.02, "b": 0.02}.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * noise)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    for number in range(6):
        Image.new("RGB", (16 + 8 * (number % 2), 16), (40 * number, 255 - 40 * number, 90)).save(
            folder / f"{number}.png"
        )
    Image.new("F", (16, 16), 300.0).save(folder / "deep.tif")
    Image.new("I;16", (16, 16), 100 << 8).save(folder / "sixteen.png")
    Image.new("RGB", (100, 100)).save(folder / "large.png")
    os.mkfifo(folder / "pipe.png")
    expert = Expert("a", type(model).from_pretrained(folder / "a").eval(), InMemory({}), ())
    return Pool(folder, expert, AutoProcessor.from_pretrained(folder / "a"))


def chat(*parts, answer="good film"):
    answered = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return [{"role": "user", "content": list(parts)}, answered]


def word(text):
    return {"type": "text", "text": text}


def spellings(folder):
    """One row in every form that users write, all with the same picture and words."""
    path = str(folder / "1.png")
    data = "data:image/png;base64," + base64.b64encode((folder / "1.png").read_bytes()).decode()
    words = word("loud song")
    share = [{"from": "human", "value": "<image>\nloud song"}, {"from": "gpt", "value": "good film"}]
    plain = [{"role": "user", "content": "loud song"}, {"role": "assistant", "content": "good film"}]
    return {
        "path": {"messages": chat({"type": "image", "path": path}, words)},
        "image": {"messages": chat({"type": "image", "image": path}, words)},
        "without type": {"messages": chat({"image": path}, words)},
        "image_url": {"messages": chat({"type": "image_url", "image_url": {"url": data}}, words)},
        "place": {"messages": chat({"type": "image"}, words), "images": [path]},
        "no place": {"messages": plain, "image": path},
        "beside the text": {"messages": [{**plain[0], "images": [path]}, plain[1]]},
        "sharegpt": {"conversations": share, "image": path},
        "text": {"text": "loud song", "completion": "good film", "image": path},
        "other name": {"text": "loud song", "completion": "good film", "photo": path},
    }


def rows_of(pool, tmp_path, rows, **source):
    """Encoded rows of task a."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    table = load_table(DataSource(str(file), **source), "a", 0)
    return encode(table, pool.expert, pool.processor, Encoding()).rows


def test_every_spelling_of_an_image_is_the_row_of_the_processor(pool, tmp_path):
    messages = chat({"type": "image", "path": str(pool.folder / "1.png")}, word("loud song"))
    expected = pool.processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    answer = pool.processor.tokenizer.encode("good film [SEP]", add_special_tokens=False)
    for name, row in spellings(pool.folder).items():
        source = {"completion": "completion"} if "completion" in row else {}
        batch = rows_of(pool, tmp_path, [row], **source).batch([0])
        assert "pixel_values" in batch.inputs
        for key, tensor in batch.inputs.items():
            torch.testing.assert_close(tensor, expected[key], msg=f"{name}: {key}")
        assert batch.labels[batch.positions].tolist()[: len(answer)] == answer, name


def rows_with_and_without_images(pool):
    """Rows of unequal length, one of them without an image."""
    places = [str(pool.folder / f"{i}.png") for i in range(3)]
    asks = [chat({"type": "image", "path": place}, *[word("loud song")] * (1 + i)) for i, place in enumerate(places)]
    return [{"messages": one} for one in [*asks, chat(word("calm book"))]]


@torch.no_grad()
def perplexity(model, rows):
    """exp of the mean loss of plain transformers over the answers, row by row."""
    total, count = 0.0, 0
    for row in range(len(rows)):
        batch = rows.batch([row])
        logits, labels = model(**batch.inputs).logits[0][batch.positions[0]], batch.labels[0][batch.positions[0]]
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        count += len(labels)
    return math.exp(total / count)


def test_a_merge_learns_from_images_and_is_measured_on_them(pool, tmp_path):
    rows = rows_of(pool, tmp_path, rows_with_and_without_images(pool))
    data = {"path": str(tmp_path / "rows.jsonl")}
    experts = [AnExpert(pool.folder / n, calibration=data, evaluation=data if n == "a" else None) for n in "ab"]
    merge = Merge(
        pool.folder / "base", experts, method="expert_merging", data={"held_out": 0.5, "batch_size": 4},
        trainer={"max_steps": 1, "accelerator": "cpu"},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows of calibration and evaluation are the same here
        result = merge.learn()
        result.export(tmp_path / "merged")
    assert result.moved > 0
    merged = type(pool.expert.module).from_pretrained(tmp_path / "merged").eval()
    assert result.scores()["a"] == pytest.approx(perplexity(merged, rows), rel=1e-3)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "merged"), type(pool.processor))


def test_an_answer_does_not_depend_on_the_rows_beside_it(pool, tmp_path):
    rows, plain = rows_of(pool, tmp_path, rows_with_and_without_images(pool)), pool.expert.module
    batch = rows.batch([2, 0])
    with torch.no_grad():
        together = plain(**batch.inputs).logits
        for place, row in enumerate((2, 0)):
            alone = rows.batch([row])
            expected = plain(**alone.inputs).logits[0][alone.positions[0]]
            torch.testing.assert_close(together[place][batch.positions[place]], expected, rtol=1e-3, atol=1e-3)


REFUSED = {
    "no answer": ([{"messages": chat({"type": "image"}, word("loud"))[:1], "image": "1.png"}], "row 1 .*answer"),
    "missing file": (
        [{"messages": chat({"type": "image", "path": "no.png"}, word("loud"))}],
        r"row 1 .*\(no.png\) is not an image that can be read: there is no such file",
    ),
    "address": ([{"messages": chat({"type": "image", "url": "https://a.b/c.png"})}], "row 1 .*Download images first"),
    "too few": (
        [{"messages": chat({"type": "image"}, {"type": "image"}), "images": ["1.png"]}],
        "1 images for 2 places",
    ),
    "sound": ([{"messages": chat({"type": "input_audio", "input_audio": {"data": "x"}})}], "row 1 .*audio beside text"),
    "film": ([{"messages": chat({"type": "video", "video": "a.mp4"})}], "row 1 .*a.mp4 is missing.*video beside text"),
    "both": (
        [{"messages": chat({"type": "image", "path": "1.png"})}, {"messages": chat({"type": "audio", "url": "a.wav"})}],
        "row 2 .*audio beside text",
    ),
    "a number": ([{"messages": chat({"type": "image", "image": 7})}], "row 1 .*the path of one, found 7"),
    "32 bits": ([{"messages": chat({"type": "image", "path": "deep.tif"})}], "row 1 .*deep.tif.*found 32 bits .mode F"),
    "a pipe": ([{"messages": chat({"type": "image", "path": "pipe.png"})}], "row 1 .*expected a file, found a pipe"),
    "too large": ([{"messages": chat({"type": "image", "path": "large.png"})}], "row 1 .*at most 2000 pixels"),
    "no completion": ([{"text": "loud", "image": "1.png"}], "name|Name it .key completion"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_cannot_be_encoded_are_refused_by_row(pool, tmp_path, name):
    rows, words = REFUSED[name]
    written = json.dumps(rows)
    for file in ("1.png", "deep.tif", "pipe.png", "large.png"):
        written = written.replace(file, str(pool.folder / file))
    with pytest.raises(ConfigError, match=words):
        rows_of(pool, tmp_path, json.loads(written), max_pixels=2000)


def test_a_processor_of_images_larger_than_the_limit_is_refused(pool, tmp_path):
    with pytest.raises(ConfigError, match=r"preprocessor_config.json: .*size.*: expected .* at most 255 pixels"):
        rows_of(pool, tmp_path, [spellings(pool.folder)["path"]], max_pixels=255)


def test_rows_without_images_of_which_the_processor_makes_other_tokens_are_said(pool, tmp_path):
    """The processor adds [CLS] and [SEP], as the template does not begin with the tokenizer's first token."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": chat(word("loud song"))}) + "\n")
    table = load_table(DataSource(str(file)), "a", 0)
    said = [note for note in encode(table, pool.expert, pool.processor, Encoding()).notes if "other tokens" in note]
    assert len(said) == 1
    assert "'[CLS] film loud song" in said[0].partition(" for ")[0]
    assert "'film loud song" in said[0].partition(" for ")[2]
    whole = AutoProcessor.from_pretrained(pool.folder / "a")
    whole.chat_template = whole.tokenizer.chat_template = (
        "[CLS] " + TEMPLATE.removesuffix("{% endif %}") + "{% endif %}"
    )
    whole.tokenizer.bos_token = "[CLS]"
    assert not [note for note in encode(table, pool.expert, whole, Encoding()).notes if "other tokens" in note]


def test_images_that_are_not_read_as_they_are_stored_are_counted(pool, tmp_path):
    asks = [chat({"type": "image", "path": str(pool.folder / name)}, word("loud")) for name in ("1.png", "sixteen.png")]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"messages": one}) for one in asks))
    encoded = encode(load_table(DataSource(str(file)), "a", 0), pool.expert, pool.processor, Encoding())
    assert "1 of 2 images have 16 bits per channel: the upper 8 are used; first: row 2" in " ".join(encoded.notes)
    pixels = encoded.rows.batch([1]).inputs["pixel_values"]
    white = encoded.rows.batch([0]).inputs["pixel_values"].max()
    assert pixels.max() < white  # 100 of 255, and not clipped


def test_a_processor_without_a_template_is_refused(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(pool.processor, "chat_template", None)
    with pytest.raises(ConfigError, match=r"Processor has no chat template.*chat_template\.jinja"):
        rows_of(pool, tmp_path, [spellings(pool.folder)["path"]])
