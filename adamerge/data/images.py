"""Rows of images → the inputs of a transformers model."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin
from typing_extensions import override

from adamerge.batch import Batch
from adamerge.data.rows import Rows
from adamerge.data.tables import Table


class ImageRows(Rows):
    """Images, processed when a batch is made: 256 of them would take 150 MB as pixels of floats.

    Args:
        table: Holds the images in the column that its source names.
        processor: Makes pixel values.
        labels: One a row, or None.
    """

    def __init__(self, table: Table, processor: ImageProcessingMixin, labels: Sequence[int] | None) -> None:
        self._table, self._processor, self._labels = table, processor, labels

    def __len__(self) -> int:
        return len(self._table)

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        column = self._table.data[list(indices)][self._table.source.image]
        images = [image.convert("RGB") for image in column]
        pixels = cast(Callable[..., Mapping[str, Tensor]], self._processor)(images, return_tensors="pt")["pixel_values"]
        labels = None if self._labels is None else torch.tensor([self._labels[i] for i in indices])
        return Batch({"pixel_values": pixels}, torch.as_tensor(list(indices)), None, labels)
