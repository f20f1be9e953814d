"""Rows of images with one class per row."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.image_processing_base import ImageProcessingMixin
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.input_columns import input_names
from adamerge.data.made_sizes import check_made, within_memory
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.number_labels import labels_by_form, metric_of
from adamerge.data.padding import Padding
from adamerge.data.pixels import CHANNELS, converted, image_notes
from adamerge.data.rows import Padded, Rows
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text_inputs import refuse_columns
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind, forward_arguments
from adamerge.experts.predicted import Output, output_of
from adamerge.types import ConfigError


class Images(Modality):
    """One image per row, for image classifiers."""

    main_input: ClassVar = "pixel_values"
    loader: ClassVar = AutoImageProcessor
    loads: ClassVar = "image processor"
    files: ClassVar = ("*processor_config.json",)

    @override
    def fits(self, kind: ModelKind, table: Table) -> bool:
        return True

    @override
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        label = {"label": table.source.label} if encoding.labeled else {}
        return {"image": table.source.image, **label}

    @override
    def encode(self, table: Table, expert: Expert, processor: AnyProcessor, encoding: Encoding) -> Encoded:
        check_made(table, processor)
        found = contents(table, self.columns(table, encoding))
        names = input_names(table, expert.module, [table.source.image, table.source.label])
        refuse_columns(table, expert, names, "images")
        images, channels = cast(ImageProcessingMixin, processor), _channels(table, expert)
        notes, unusual = image_notes(table, table.source.image, CHANNELS[channels])
        rows = ImageRows(table, images, None, channels, frozenset(forward_arguments(expert.module)))
        shapes = _tried(table, rows, channels, unusual)
        tried = [_asked(table, expert, inputs) for inputs in shapes.values()]
        _, form, outputs = tried[0]
        rows.labels, about = labels_by_form(table, expert.kind, encoding, form, outputs)
        rows.metric = metric_of(table, form)
        if len(shapes) > 1:
            rows.padding = Padding(share="none")
            about = (*about, _shapes_note(table, list(shapes)))
        return Encoded(rows, found, (*notes, *about))


class ImageRows(Rows):
    """Images, processed per batch: 256 of them would need 150 MB as floating-point pixels.

    Args:
        table: Contains the images in the column that its source names.
        processor: Computes pixel values.
        labels: One per row, or None.
        channels: Number of channels that the model reads.
        arguments: What else the model reads of what the processor returns, such as a mask of padded pixels.

    Attributes:
        labels: As given.
    """

    def __init__(
        self,
        table: Table,
        processor: ImageProcessingMixin,
        labels: Sequence[object] | None,
        channels: int = 3,
        arguments: frozenset[str] = frozenset(),
    ) -> None:
        self._table, self._processor, self.labels, self._channels = table, processor, labels, channels
        self._arguments = arguments | {"pixel_values"}

    def __len__(self) -> int:
        return len(self._table)

    @override
    def padded(self, indices: Sequence[int]) -> Padded:
        column = self._table.source.image
        images = [converted(self._table.image(column, row), CHANNELS[self._channels]) for row in indices]
        with within_memory(self._table, self._table.place(indices[0])):
            found = cast(Callable[..., Mapping[str, Tensor]], self._processor)(images, return_tensors="pt")
        labels = None if self.labels is None else torch.tensor([self.labels[i] for i in indices])
        return Padded({name: tensor for name, tensor in found.items() if name in self._arguments}, None, labels)


def _channels(table: Table, expert: Expert) -> int:
    """Return the number of channels that the model reads.

    Raises:
        ConfigError: No image has as many.
    """
    config = getattr(expert.own_module, "config", None)
    count = getattr(config, "num_channels", None) or getattr(getattr(config, "vision_config", None), "num_channels", 3)
    if count not in CHANNELS:
        known = ", ".join(map(str, CHANNELS))
        raise table.error(
            f"{expert.kind.architecture} reads images of {count} channels (num_channels of config.json), but images "
            f"can be encoded with {known}. Leave out this task's calibration and evaluation, or use rows of tensors."
        )
    return int(count or 3)


def _tried(
    table: Table, rows: ImageRows, channels: int, unusual: Sequence[int]
) -> Mapping[tuple[int, ...], Mapping[str, Tensor]]:
    """Process the first two images and those of unusual sizes; return the inputs of the first one of each shape.

    Raises:
        ConfigError: The image processor cannot process one, or returns another number of channels than the model reads.
    """
    advice = f"but the model reads {channels} (num_channels of config.json). Correct its image_mean, image_std or "
    advice += "do_convert_rgb in preprocessor_config.json."
    found: dict[tuple[int, ...], Mapping[str, Tensor]] = {}
    for row in dict.fromkeys([*range(min(2, len(table))), *unusual]):
        inputs = _processed(table, rows, row, channels, advice)
        found.setdefault(tuple(inputs["pixel_values"].shape[1:]), inputs)
    return found


def _asked(table: Table, expert: Expert, inputs: Mapping[str, Tensor]) -> Output:
    """Run the model on an image; where its size is not the model's, say whose file that is."""
    try:
        return output_of(expert, inputs, table.task)
    except ConfigError as error:
        config = getattr(expert.own_module, "config", None)
        size = getattr(config, "image_size", None) or getattr(
            getattr(config, "vision_config", None), "image_size", None
        )
        made = tuple(inputs["pixel_values"].shape[-2:])
        if size is None or made in ((size, size), tuple(size) if isinstance(size, list | tuple) else ()):
            raise
        raise table.error(
            f"{expert.kind.architecture} cannot be run on images of {made[0]}×{made[1]} pixels, which its image "
            f"processor makes; expected image_size {size} of config.json. Correct size and crop_size in "
            "preprocessor_config.json, or copy it again from the fine-tuned model."
        ) from error


def _shapes_note(table: Table, shapes: Sequence[tuple[int, ...]]) -> str:
    shown = " and ".join(map(str, shapes[:2]))
    return (
        f"{table.task}: {table.source.path}: the image processor makes pixels of several shapes ({shown}), as it "
        "neither resizes nor crops to one: every row has a forward pass of its own."
    )


def _processed(table: Table, rows: ImageRows, row: int, channels: int, advice: str) -> Mapping[str, Tensor]:
    """Process one image."""
    try:
        inputs = rows.batch([row]).inputs
    except ConfigError:
        raise
    except (ValueError, TypeError, IndexError) as error:
        raise table.error(
            f"row {row + 1}: the image processor cannot process an image of {channels} channels ({error}), {advice}"
        ) from error
    found = inputs["pixel_values"].shape
    if len(found) == 4 and found[1] != channels:
        raise table.error(f"row {row + 1}: the image processor returns images of {found[1]} channels, {advice}")
    return inputs
