"""Image processors that make larger images than rows may have are refused before they fill memory."""

import pytest
from PIL import Image
from support.families import build
from transformers import (
    CLIPImageProcessorPil,
    DetrImageProcessorPil,
    Qwen2VLImageProcessorPil,
    ViTImageProcessorPil,
)

from adamerge.data.encode import encode
from adamerge.data.made_sizes import check_made
from adamerge.data.records import Listed
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError

SQUARE = {"height": 21, "width": 20}
SMALL = {"shortest_edge": 16}


@pytest.fixture
def table(tmp_path):
    """A row with an image, where 400 pixels are the limit."""
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    return Table(Listed({"image": [str(tmp_path / "0.png")]}), DataSource("rows", max_pixels=400), "mood")


def encoded(table, processor):
    expert = Expert("mood", build("ViTForImageClassification", "vit", 0), InMemory({}), ())
    return encode(table, expert, processor, Encoding())


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (ViTImageProcessorPil(size=SQUARE), "size: .*found 21×20"),
        (CLIPImageProcessorPil(size={"shortest_edge": 21}, do_center_crop=False), "size.shortest_edge: .*found 21"),
        (CLIPImageProcessorPil(size=SMALL, crop_size=SQUARE), "crop_size: .*found 21×20"),
        (DetrImageProcessorPil(size=SMALL, pad_size=SQUARE, do_pad=True), "pad_size: .*found 21×20"),
        (Qwen2VLImageProcessorPil(size={"shortest_edge": 401, "longest_edge": 500}), "size.shortest_edge: .*found 401"),
    ],
)
def test_larger_images_than_rows_may_have_are_refused(table, processor, words):
    with pytest.raises(ConfigError, match=rf"mood: rows: preprocessor_config.json: {words}") as refused:
        encoded(table, processor)
    assert "at most 400 pixels" in str(refused.value)


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 20, "width": 20}),
        ViTImageProcessorPil(size=SQUARE, do_resize=False),
        CLIPImageProcessorPil(size=SMALL, crop_size=SQUARE, do_center_crop=False),
        Qwen2VLImageProcessorPil(size={"shortest_edge": 400, "longest_edge": 4000}),  # numbers of pixels
    ],
)
def test_sizes_within_the_limit_or_without_use_are_accepted(table, processor):
    check_made(table, processor)


def test_a_row_that_a_processor_has_no_memory_for_is_named(table, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(ViTImageProcessorPil, "__call__", full)
    with pytest.raises(ConfigError, match=r"mood: rows: row 1: expected inputs that fit into memory"):
        encoded(table, ViTImageProcessorPil(size={"height": 16, "width": 16}))
