"""Images of every mode are read as they look, or refused with their row."""

import base64
import struct

import datasets
import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.families import build
from transformers import (
    Siglip2Config,
    Siglip2ForImageClassification,
    Siglip2ImageProcessorPil,
    ViTImageProcessorPil,
)

from adamerge.calibration.probe import settle
from adamerge.data.encode import encode as encode_for
from adamerge.data.pixels import converted, image_notes
from adamerge.data.records import Arrow, Listed
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table, load_table
from adamerge.experts.experts import Expert
from adamerge.runs.settle_rows import asked_of_copy
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError

SIZE = {"height": 16, "width": 16}
GREY = (numpy.arange(256).reshape(16, 16)).astype(numpy.uint8)
COLOURS = numpy.stack([GREY, GREY.T, 255 - GREY], -1)


def encode(folder, *files, processor=None, **options):
    """Encode image files for a classifier of images."""
    table = Table(
        Arrow(datasets.Dataset.from_dict({"image": [f if isinstance(f, dict) else str(f) for f in files]})),
        DataSource("rows"),
        "mood",
    )
    expert = Expert("mood", build("ViTForImageClassification", "vit", 0, **options), InMemory({}), ())
    return encode_for(table, expert, processor or ViTImageProcessorPil(size=SIZE), Encoding())


def saved(folder, image, ending="png", **options):
    image.save(folder / f"image.{ending}", **options)
    return folder / f"image.{ending}"


def rgb(image):
    return ViTImageProcessorPil(size=SIZE)([image], return_tensors="pt")["pixel_values"]


GREY_IMAGE, COLOUR_IMAGE = Image.fromarray(GREY), Image.fromarray(COLOURS)
BLACK_AND_WHITE = GREY_IMAGE.convert("1")
ALPHA = COLOUR_IMAGE.copy()
ALPHA.putalpha(GREY_IMAGE)
PALETTE = COLOUR_IMAGE.quantize(16)
STORED = {
    "8-bit grey": (GREY_IMAGE, "png", GREY_IMAGE, None),
    "16-bit grey": (Image.fromarray(GREY.astype(numpy.uint16) * 257), "png", GREY_IMAGE, "16 bits per channel"),
    "16-bit grey, shifted": (Image.fromarray(GREY.astype(numpy.uint16) << 8), "tif", GREY_IMAGE, "16 bits per channel"),
    "16-bit PGM": (Image.fromarray(GREY.astype(numpy.uint16) * 257), "pgm", GREY_IMAGE, "16 bits per channel"),
    "1 bit": (BLACK_AND_WHITE, "png", BLACK_AND_WHITE.convert("L"), None),
    "palette": (PALETTE, "png", PALETTE.convert("RGB"), None),
    "alpha": (ALPHA, "png", COLOUR_IMAGE, "transparent"),
    "grey and alpha": (ALPHA.convert("LA"), "png", COLOUR_IMAGE.convert("L"), "transparent"),
    "CMYK": (COLOUR_IMAGE.convert("CMYK"), "tif", COLOUR_IMAGE.convert("CMYK").convert("RGB"), None),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_images_are_read_as_they_look(tmp_path, name):
    image, ending, looks, words = STORED[name]
    found = encode(tmp_path, saved(tmp_path, image, ending))
    torch.testing.assert_close(found.rows.batch([0]).inputs["pixel_values"], rgb(looks.convert("RGB")))
    assert [words in note for note in found.notes] == ([] if words is None else [True])


def test_palettes_with_transparency_are_read_without_a_warning(tmp_path):
    found = encode(tmp_path, saved(tmp_path, PALETTE, transparency=bytes(range(16))))
    expected = rgb(PALETTE.convert("RGB"))
    torch.testing.assert_close(found.rows.batch([0]).inputs["pixel_values"], expected)
    assert "mood: rows: 1 of 1 images are transparent: transparency is ignored; first: row 1." in found.notes


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_are_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = encode(tmp_path, saved(tmp_path, COLOUR_IMAGE, exif=exif))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]
    expected = rgb(COLOUR_IMAGE.transpose(Image.Transpose(turn)))
    torch.testing.assert_close(found.rows.batch([0]).inputs["pixel_values"], expected)
    assert "1 of 1 images are turned upright as their EXIF orientation says; first: row 1." in found.notes[0]


@pytest.mark.parametrize(("dtype", "mode"), [(numpy.int32, "I"), (numpy.float32, "F")])
def test_images_of_unknown_scale_are_refused(tmp_path, dtype, mode):
    good = saved(tmp_path, GREY_IMAGE)
    bad = saved(tmp_path, Image.fromarray(GREY.astype(dtype)), "tif")
    with pytest.raises(ConfigError, match=rf"mood: rows: row 2 \(.*image.tif\): .* (signed )?32 bits \(mode {mode}\)"):
        encode(tmp_path, good, bad)


def test_images_in_base64_are_read_and_damaged_ones_named_in_short(tmp_path):
    content = base64.b64encode(saved(tmp_path, COLOUR_IMAGE).read_bytes()).decode()
    found = encode(tmp_path, f"data:image/png;base64,{content}")
    torch.testing.assert_close(found.rows.batch([0]).inputs["pixel_values"], rgb(COLOUR_IMAGE))
    for damaged in (f"data:image/png;base64,{content[:-7]}", content):
        with pytest.raises(ConfigError, match=r"row 1 .* is not an image that can be read") as refused:
            encode(tmp_path, damaged)
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize("mode", ["I", "F"])
def test_no_conversion_clips_numbers_of_unknown_scale(mode):
    with pytest.raises(ValueError, match=rf"found 32 bits \(mode {mode}\)"):
        converted(Image.new(mode, (1, 1), 300), "RGB")


@given(
    st.integers(0, 255),
    st.sampled_from(["1", "L", "P", "LA", "RGB", "RGBA", "RGBa", "La", "PA", "CMYK", "YCbCr", "HSV", "LAB"]),
)
def test_every_mode_becomes_the_models_mode(value, mode):
    image = Image.new("RGB", (2, 1), (value, value, value))
    stored = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
    for wanted in ("L", "RGB", "RGBA"):
        assert converted(stored, wanted).mode == wanted
    if mode not in ("1", "P", "PA"):
        assert abs(converted(stored, "L").getpixel((0, 0)) - value) <= 2


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_those_of_the_model(tmp_path, channels):
    mean = [0.5] * channels
    processor = ViTImageProcessorPil(size=SIZE, image_mean=mean, image_std=mean)
    found = encode(tmp_path, saved(tmp_path, COLOUR_IMAGE), processor=processor, num_channels=channels)
    assert found.rows.batch([0]).inputs["pixel_values"].shape == (1, channels, 16, 16)


def test_channels_that_do_not_fit_are_refused(tmp_path):
    file = saved(tmp_path, COLOUR_IMAGE)
    with pytest.raises(ConfigError, match=r"cannot process an image of 1 channels .*Correct its image_mean"):
        encode(tmp_path, file, num_channels=1)
    with pytest.raises(ConfigError, match="reads images of 7 channels"):
        encode(tmp_path, file, num_channels=7)


def test_images_of_several_frames_are_noted(tmp_path):
    second = Image.fromarray(255 - COLOURS)
    file = saved(tmp_path, COLOUR_IMAGE, "tif", save_all=True, append_images=[second])
    found = encode(tmp_path, {"bytes": file.read_bytes(), "path": None})  # datasets leaves such files open
    torch.testing.assert_close(found.rows.batch([0]).inputs["pixel_values"], rgb(COLOUR_IMAGE))
    assert found.notes == ("mood: rows: 1 of 1 images have several frames: the first is used; first: row 1.",)


def packed(values):
    """Numbers of 12 bits, two in three bytes."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)


def tiff(file, bits, content, *, white_is_zero=False, orientation=1, more=()):
    """Write a TIFF file of 2 × 2 pixels (TIFF 6.0, section 3)."""
    photometric = 0 if white_is_zero else 1
    tags = {
        256: 2,
        257: 2,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        274: orientation,
        277: 1,
        278: 2,
        279: len(content),
        **dict(more),
    }
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(content))
    file.write_bytes(start + content + struct.pack("<H", len(tags)) + entries + bytes(4))
    return file


@pytest.mark.parametrize("orientation", [1, 3])
@pytest.mark.parametrize(
    ("bits", "content", "white_is_zero", "expected"),
    [
        (12, packed([0, 2048, 4095, 16]), False, [0, 128, 255, 1]),
        (16, struct.pack("<4H", 0, 32768, 65535, 256), False, [0, 128, 255, 1]),
        (16, struct.pack("<4H", 0, 32768, 65535, 256), True, [255, 127, 0, 254]),
        (8, bytes([0, 128, 255, 1]), True, [255, 127, 0, 254]),
    ],
)
def test_numbers_of_tiff_files_have_the_scale_that_the_file_says(
    tmp_path, bits, content, white_is_zero, expected, orientation
):
    file = tiff(tmp_path / "0.tif", bits, content, white_is_zero=white_is_zero, orientation=orientation)
    table = load_table(DataSource(str(tmp_path)), "mood", 0)
    found = numpy.asarray(converted(table.image("image", 0), "L")).ravel().tolist()
    assert found == (expected if orientation == 1 else expected[::-1])
    notes, _ = image_notes(table, "image", "L")
    assert any(f"1 of 1 images have {bits} bits per channel: the upper 8 are used" in n for n in notes) == (bits > 8)
    assert not any("warning" in note for note in notes)
    assert file.exists()


@pytest.mark.parametrize(("largest", "dark"), [(4095, True), (255, True), (8000, False), (65535, False)])
def test_images_that_use_a_small_part_of_their_scale_are_said(tmp_path, largest, dark):
    Image.fromarray(numpy.array([[0, largest]], dtype=numpy.uint16)).save(tmp_path / "0.png")
    notes, _ = image_notes(load_table(DataSource(str(tmp_path)), "mood", 0), "image", "L")
    assert any("of the scale that their files say" in note for note in notes) == dark


@pytest.mark.parametrize(
    ("form", "bits", "words"), [(2, 16, "signed 16 bits"), (2, 32, "signed 32 bits"), (1, 32, "found 32 bits")]
)
def test_numbers_of_unknown_scale_are_called_what_the_file_says(tmp_path, form, bits, words):
    content = bytes(4 * bits // 8)
    with pytest.raises(ConfigError, match=rf"expected an image of 8 bits or unsigned 16 bits .*{words} \(mode I\)"):
        encode(tmp_path, tiff(tmp_path / "0.tif", bits, content, more={339: form}))


def sizes(folder, *shapes):
    files = [folder / f"{number}.png" for number in range(len(shapes))]
    for file, shape in zip(files, shapes, strict=True):
        Image.new("RGB", shape).save(file)
    return Table(Listed({"image": list(map(str, files))}), DataSource("rows"), "mood")


def test_images_that_the_processor_leaves_in_several_shapes_have_a_pass_each(tmp_path):
    table = sizes(tmp_path, (32, 32), (32, 32), (48, 32), (32, 32), (32, 32))
    whole = Expert("mood", build("ResNetForImageClassification", "resnet", 0), InMemory({}), ())
    found = encode_for(table, whole, ViTImageProcessorPil(do_resize=False), Encoding())
    assert "the image processor makes pixels of several shapes ((3, 32, 32) and (3, 32, 48))" in found.notes[-1]
    asked = settle(asked_of_copy(whole, found.rows), found.rows)
    assert [batch.inputs["pixel_values"].shape[-1] for batch in asked.rows.batches(8)] == [32, 32, 48, 32, 32]
    assert asked.notes == ()
    fixed = Expert("mood", build("ViTForImageClassification", "vit", 0), InMemory({}), ())
    with pytest.raises(
        ConfigError, match=r"images of 32×32 pixels, .* image_size 16 of config.json. .*preprocessor_config"
    ):
        encode_for(table, fixed, ViTImageProcessorPil(do_resize=False), Encoding())


def test_what_a_processor_returns_beside_pixels_and_the_model_takes_is_fed(tmp_path):
    sizes_of = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    texts = {**sizes_of, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}
    config = Siglip2Config(vision_config={**sizes_of, "patch_size": 16, "num_patches": 16}, text_config=texts)
    module = Siglip2ForImageClassification(config).eval()
    processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16)
    table = sizes(tmp_path, (32, 32), (64, 48))
    found = encode_for(table, Expert("mood", module, InMemory({}), ()), processor, Encoding())
    expected = processor([Image.open(path) for path in table.values("image")], return_tensors="pt")
    inputs = found.rows.batch([0, 1]).inputs
    assert {*inputs} == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
    assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
