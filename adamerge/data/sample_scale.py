"""Images as they are stored → how many bits their numbers have, and whether 0 is white."""

import io
from collections.abc import Mapping
from typing import NamedTuple, cast

import datasets
import numpy
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF 6.0 (pages 29 and 37), and the value of the second for images whose 0 is white."""

_SAMPLE_FORMAT, _SIGNED = 339, 2
"""Tag of TIFF 6.0 (page 80), and its value for integers with a sign."""

_KEPT = "adamerge sample scale"
"""Where an image that was turned upright keeps what its file says."""


class SampleScale(NamedTuple):
    """Scale of the numbers of a greyscale image in words of 16 bits.

    Attributes:
        bits: Number of bits that the file says; Pillow does not scale 12 bits to 16.
        inverted: Whether 0 is white; Pillow inverts 8 bits, but not 16.
    """

    bits: int = 16
    inverted: bool = False


def decode(stored: Mapping[str, object]) -> Image.Image:
    """Decode an image, upright; what its file says of the scale of its numbers is kept.

    Args:
        stored: Path and bytes, as `datasets` stores images.
    """
    image = datasets.Image().decode_example(dict(stored))
    if image.mode.startswith("I;16") and image.format is None:  # a turned copy has no tags
        with open_stored(stored) as original:
            image.info[_KEPT] = sample_scale(original)
    return image


def open_stored(stored: Mapping[str, object]) -> Image.Image:
    """Open an image from its bytes or its path; nothing is decoded."""
    data = cast(bytes | None, stored.get("bytes"))
    return Image.open(io.BytesIO(data) if data is not None else cast(str, stored["path"]))


def sample_scale(image: Image.Image) -> SampleScale:
    """Read the scale of an image's numbers from its tags; images of other formats than TIFF use all 16 bits."""
    kept = image.info.get(_KEPT)
    if kept is not None:
        return cast(SampleScale, kept)
    tags = cast(Mapping[int, object], getattr(image, "tag_v2", None) or {})
    found = tags.get(_BITS_PER_SAMPLE, 16)
    bits = found[0] if isinstance(found, tuple) and found else found
    return SampleScale(bits if isinstance(bits, int) else 16, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def number_form(image: Image.Image) -> str:
    """Describe the numbers of an image that Pillow holds in 32 bits, as its TIFF file has them."""
    tags = cast(Mapping[int, tuple[int, ...]], getattr(image, "tag_v2", None) or {})
    bits, form = tags.get(_BITS_PER_SAMPLE, (32,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]
    return f"{'signed ' if form == _SIGNED else ''}{bits} bits"


def upper_bits(image: Image.Image) -> Image.Image:
    """Keep the upper 8 bits of each number of a greyscale image in words of 16 bits; black is 0.

    Example:
        >>> numpy.asarray(upper_bits(Image.fromarray(numpy.array([[0, 25700]], dtype=numpy.uint16)))).tolist()
        [[0, 100]]
    """
    scale = sample_scale(image)
    grey = (numpy.asarray(image).astype(numpy.uint32) >> (scale.bits - 8)).astype(numpy.uint8)
    return Image.fromarray(255 - grey if scale.inverted else grey)
