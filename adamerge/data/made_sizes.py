"""The sizes of the images that an image processor makes, held to the limit of those that it is given."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

from transformers import ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.modality import AnyProcessor
from adamerge.data.tables import Table

_SWITCHES: Mapping[str, str] = {"size": "do_resize", "crop_size": "do_center_crop", "pad_size": "do_pad"}
"""Setting that says whether a size is used."""

_FILE = "preprocessor_config.json"
_ADVICE = f"or copy {_FILE} (or processor_config.json) again from the fine-tuned model."


class Made(NamedTuple):
    """The images of one setting.

    Attributes:
        key: Its dotted name in the file.
        shown: Its value.
        pixels: How many pixels an image has at least.
    """

    key: str
    shown: str
    pixels: float


def check_made(table: Table, processor: AnyProcessor) -> None:
    """Refuse a processor that makes images of more pixels than rows may have, before it fills memory.

    Args:
        table: Names task and file in the error, and has the limit.
        processor: Makes inputs of images.

    Raises:
        ConfigError: A setting asks for larger images; names it.
    """
    images = getattr(processor, "image_processor", None) if isinstance(processor, ProcessorMixin) else processor
    if not isinstance(images, ImageProcessingMixin):
        return
    limit = table.source.max_pixels
    for key, shown, pixels in _made(images):
        if not pixels <= limit:
            raise table.error(
                f"{_FILE}: {key}: expected images of at most {limit} pixels, as max_pixels of these rows is, found "
                f"{shown}. Correct it, {_ADVICE}"
            )


@contextmanager
def within_memory(table: Table, place: str) -> Iterator[None]:
    """Say which row a processor needs more memory for than there is.

    Args:
        table: Names task and file in the error.
        place: Place of the row.

    Raises:
        ConfigError: There is not enough memory in the block.
    """
    try:
        yield
    except MemoryError as error:
        raise table.error(
            f"{place}: expected inputs that fit into memory, but there is not enough for those that the processor "
            f"makes. Correct the sizes in {_FILE}, {_ADVICE}"
        ) from error


def _made(processor: ImageProcessingMixin) -> Iterator[Made]:
    """Yield the images of every setting that is in use and names a size."""
    counted = _counts_pixels(type(processor))
    for key, value in cast(dict[str, object], processor.to_dict()).items():
        if not getattr(processor, _SWITCHES.get(key, ""), True):
            continue
        if isinstance(value, Mapping):
            sides = {str(side): size for side, size in cast(Mapping[str, object], value).items()}
            yield from _of_sides(key, {s: v for s, v in sides.items() if isinstance(v, int | float)}, counted)
        elif key in _SWITCHES and isinstance(value, int | float):
            yield Made(key, f"{value}×{value}", float(value) ** 2)
        elif key == "min_pixels" and isinstance(value, int | float):
            yield Made(key, f"{value} pixels", float(value))


def _of_sides(key: str, sides: Mapping[str, float], counted: bool) -> Iterator[Made]:
    """Yield the images of a mapping such as {height: 16, width: 16} or {shortest_edge: 16}."""
    if "height" in sides and "width" in sides:
        height, width = sides["height"], sides["width"]
        yield Made(key, f"{height}×{width}", float(height) * float(width))
    edge = next((name for name in ("shortest_edge", "longest_edge") if name in sides), None)
    if edge is None or (counted and edge == "longest_edge"):  # a bound from above
        return
    length = float(sides[edge])
    yield Made(f"{key}.{edge}", f"{sides[edge]}", length if counted else length**2)


def _counts_pixels(cls: type) -> bool:
    """Return whether the edges of a processor's sizes are numbers of pixels, as Qwen2-VL's and its relatives' are."""
    return any(hasattr(sys.modules.get(part.__module__), "smart_resize") for part in cls.__mro__)
