"""Rows of images with one class per row."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.image_processing_base import ImageProcessingMixin
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.labels import labels_of
from adamerge.data.modality import Encoded, Modality, Processor
from adamerge.data.rows import Padded, Rows
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind, classes_by_token


class Images(Modality):
    """One image per row, for image classifiers."""

    main_input: ClassVar = "pixel_values"
    loader: ClassVar = AutoImageProcessor
    loads: ClassVar = "image processor"

    @override
    def fits(self, kind: ModelKind, table: Table) -> bool:
        return True

    @override
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        label = {"label": table.source.label} if encoding.labeled else {}
        return {"image": table.source.image, **label}

    @override
    def encode(self, table: Table, expert: Expert, processor: Processor, encoding: Encoding) -> Encoded:
        table = table.with_images(table.source.image)
        found = contents(table, self.columns(table, encoding))
        images = cast(ImageProcessingMixin, processor)
        classes_by_token(expert.module, expert.kind, ImageRows(table, images, None).batch([0]).inputs, table.task)
        labels, notes = labels_of(table, expert.kind, encoding)
        return Encoded(ImageRows(table, images, labels), found, notes)


class ImageRows(Rows):
    """Images, processed per batch: 256 of them would need 150 MB as floating-point pixels.

    Args:
        table: Contains the images in the column that its source names.
        processor: Computes pixel values.
        labels: One per row, or None.
    """

    def __init__(self, table: Table, processor: ImageProcessingMixin, labels: Sequence[int] | None) -> None:
        self._table, self._processor, self._labels = table, processor, labels

    def __len__(self) -> int:
        return len(self._table)

    @override
    def padded(self, indices: Sequence[int]) -> Padded:
        column = self._table.data[list(indices)][self._table.source.image]
        images = [image.convert("RGB") for image in column]
        pixels = cast(Callable[..., Mapping[str, Tensor]], self._processor)(images, return_tensors="pt")["pixel_values"]
        labels = None if self._labels is None else torch.tensor([self._labels[i] for i in indices])
        return Padded({"pixel_values": pixels}, None, labels)
