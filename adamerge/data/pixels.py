"""Images of every mode → 8-bit images with the channels that a model reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from PIL import Image

from adamerge.data.sample_scale import number_form, open_stored, sample_scale, upper_bits
from adamerge.data.tables import Table

CHANNELS: Mapping[int, str] = {1: "L", 3: "RGB", 4: "RGBA"}
"""Mode of images by number of channels."""

_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
"""Modes with transparency."""

_LOOKED_AT, _SMALL_PART = 8, 1 / 15
"""Number of images whose numbers are looked at, and the part of their scale below which a warning is given."""

_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
"""EXIF tag of the orientation, of which 1 is upright, and its values for an image that lies on its side."""


class Stored(NamedTuple):
    """How an image is stored."""

    bits: int
    transparent: bool
    turned: bool
    frames: bool
    width: int
    height: int


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to 8 bits per channel and a mode.

    Of 16-bit values the upper 8 bits are kept, as Pillow does for images with several channels; its own conversion of
    16-bit greyscale turns all values above 255 white, and it does not scale 12 bits. Transparency is dropped, as in the
    pipelines of transformers.

    Args:
        image: An image of 8 or 16 bits per channel.
        mode: L, RGB or RGBA.

    Raises:
        ValueError: It has 32 bits per channel, of unknown scale, which Pillow would clip to white.

    Example:
        >>> import numpy
        >>> sixteen = Image.fromarray(numpy.array([[0, 25700]], dtype=numpy.uint16))
        >>> numpy.asarray(converted(sixteen, "L")).tolist()
        [[0, 100]]
    """
    problem = scale_problem(image)
    if problem:
        raise ValueError(problem)
    if _has_sixteen_bits(image):
        image = upper_bits(image)
    elif image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:  # Pillow has no direct way from these
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode == "LAB":
        image = image.convert("RGB")
    return image.convert(mode)


def image_notes(table: Table, column: str, mode: str) -> tuple[tuple[str, ...], list[int]]:
    """Look at how the images of a column are stored, and count those that are not read as they are.

    Args:
        table: The rows; the column holds images.
        column: Name of the column.
        mode: Mode that they are converted to.

    Returns:
        Notes for the user, and the indices of the images of the most unusual sizes, the largest first.

    Raises:
        ConfigError: An image has 32 bits per channel, of unknown scale; names its row and file.
    """
    found = {row: _look(table, column, row) for row in range(len(table))}
    notes = (*storage_notes(table, list(found.items()), mode), *_dark_note(table, column, found))
    return notes, _unusual_sizes({row: (one.width, one.height) for row, one in found.items()})


def _unusual_sizes(sizes: Mapping[int, tuple[int, int]]) -> list[int]:
    """List the rows of the largest image, and of the narrowest, widest, lowest, highest, flattest and steepest one."""
    measures: Sequence[Callable[[tuple[int, int]], float]] = (lambda s: s[0], lambda s: s[1], lambda s: s[0] / s[1])
    extremes = [pick(sizes, key=lambda row: of(sizes[row])) for of in measures for pick in (min, max)]
    return list(dict.fromkeys([max(sizes, key=lambda row: sizes[row][0] * sizes[row][1]), *extremes]))


def _dark_note(table: Table, column: str, found: Mapping[int, Stored]) -> tuple[str, ...]:
    """Warn of images that use a small part of their scale: cameras of 12 bits write words of 16 bits unscaled."""
    deep = [row for row, one in found.items() if one.bits > 8][:_LOOKED_AT]
    used = [cast(tuple[int, int], table.image(column, row).getextrema())[1] / 2 ** found[row].bits for row in deep]
    if not used or max(used) >= _SMALL_PART:
        return ()
    return (
        f"warning: {table.task}: {table.source.path}: the first {len(used)} images of more than 8 bits use "
        f"{100 * max(used):.2g} % of the scale that their files say, so they are read as nearly one shade; first: "
        f"{table.place(deep[0])}. If they hold fewer bits, save them scaled to the whole range.",
    )


def storage_notes(table: Table, found: Sequence[tuple[int, Stored]], mode: str) -> tuple[str, ...]:
    """Count the images that are not read as they are stored.

    Args:
        table: The rows.
        found: Row of each image, and how it is stored.
        mode: Mode that images are converted to.
    """
    words = {
        **{
            f"have {bits} bits per channel: the upper 8 are used": [row for row, one in found if one.bits == bits]
            for bits in sorted({one.bits for _, one in found if one.bits > 8})
        },
        "are transparent: transparency is ignored": [row for row, one in found if one.transparent and mode != "RGBA"],
        "have several frames: the first is used": [row for row, one in found if one.frames],
        "are turned upright as their EXIF orientation says": [row for row, one in found if one.turned],
    }
    return tuple(
        f"{table.task}: {table.source.path}: {len(rows)} of {len(found)} images {what}; first: {table.place(rows[0])}."
        for what, rows in words.items()
        if rows
    )


def stored_as(image: Image.Image) -> Stored:
    """Look at how an image is stored."""
    transparent = image.mode in _ALPHA or "transparency" in image.info
    orientation = image.getexif().get(_ORIENTATION, 1)
    width, height = image.size if orientation not in _ON_ITS_SIDE else reversed(image.size)
    frames = getattr(image, "n_frames", 1) > 1
    bits = sample_scale(image).bits if _has_sixteen_bits(image) else 8
    return Stored(bits, transparent, orientation in range(2, 9), frames, width, height)


def check_scale(table: Table, row: int, stored: Mapping[str, object], image: Image.Image) -> None:
    """Refuse an image of a row whose numbers have no known scale.

    Raises:
        ConfigError: It has 32 bits per channel; names row and file.
    """
    problem = scale_problem(image)
    if problem:
        place = f" ({stored['path']})" if stored.get("path") else ""
        raise table.error(f"{table.place(row)}{place}: {problem}. Save it with 8 or 16 bits, or remove the row.")


def _look(table: Table, column: str, row: int) -> Stored:
    stored = table.stored_image(column, row)
    with table.decoding(row, stored), open_stored(stored) as image:
        check_scale(table, row, stored, image)
        return stored_as(image)


def scale_problem(image: Image.Image) -> str:
    """Say why an image's numbers cannot be read; empty if they can."""
    if image.mode not in ("I", "F") or _has_sixteen_bits(image):
        return ""
    return (
        f"expected an image of 8 bits or unsigned 16 bits per channel, found {number_form(image)} (mode {image.mode}), "
        "for which no scale is known"
    )


def _has_sixteen_bits(image: Image.Image) -> bool:
    """Return whether an image has 16 bits per pixel.

    Pillow reads such PGM files as mode I, scaled to 65535, and old versions such PNG files.
    """
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
