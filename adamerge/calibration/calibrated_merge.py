"""Finished merges that are made of calibration rows, stored under their cache key."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeAlias

import torch
from torch import Tensor

from adamerge.calibration.cache_keys import digest_of_experts, kept_of_rows, key_of
from adamerge.data.rows import Rows, first_rows
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.kept import SILENT, Keeper, key_file
from adamerge.storage.signals import unhurried
from adamerge.storage.weights import Header, MappedFiles, Weights
from adamerge.storage.write_safetensors import SafetensorsWriter
from adamerge.transforms import Transform
from adamerge.types import ConfigError

Drafts: TypeAlias = Mapping[str, Tensor]
"""Parameters of a merge that is being made, to be written in place; they are mapped from a file."""

Start: TypeAlias = Callable[[Path], Weights]
"""Computes the merge that is refitted, and keeps it at a path."""


class CalibratedMerge(ABC):
    """Options of a finished merge of the experts whose tasks have calibration rows.

    Attributes:
        rows: Calibration rows per task that are used.
    """

    rows: int

    @property
    def refits(self) -> "CalibratedMerge | Transform | None":
        """The finished merge that this one starts from; None for none."""
        return None

    @property
    def keeps_span(self) -> bool:
        """Whether changes of the centre are in the span of the columns of all task vectors of the same tensor."""
        return True

    @abstractmethod
    def fill(
        self, model: MergedModel, rows: Mapping[str, Rows], size: int, drafts: Drafts, start: Weights | None
    ) -> None:
        """Compute all parameters.

        Args:
            model: Experts and the parameters to merge.
            rows: Calibration rows of the tasks that have rows.
            size: Rows per forward pass.
            drafts: The parameters, all to be written.
            start: The merge that is refitted, of `refits`.
        """


def kept_merge(
    model: MergedModel,
    rows: Mapping[str, Rows],
    settings: CalibratedMerge,
    file: Path,
    size: int,
    keeper: Keeper = SILENT,
    start: Start | None = None,
) -> Weights:
    """Read a merge of calibration rows from a file, or compute it and write the file.

    Args:
        model: Experts and the parameters to merge; experts whose tasks have rows are merged.
        rows: Calibration rows per task; the first `settings.rows` of each are used. Empty if they are not available:
            then the stored merge is read without comparing its rows.
        settings: Options.
        file: File of the stored merge.
        size: Rows per forward pass.
        keeper: Stores the merge under its cache key.
        start: Computes the merge that is refitted, for options that name one.

    Returns:
        The merged parameters, mapped from the file.

    Raises:
        ConfigError: There are no rows, and no stored merge has the same key.
    """
    rows = first_rows(rows, settings.rows)
    what = [repr(settings), list(model.vectors.shapes), str(model.vectors.dtype)]
    key = key_of(digest_of_experts(model.experts), rows, what, size)
    make = partial(_write, model, rows, settings, size, start)
    return kept_of_rows(keeper, file, key, make, lambda path: MappedFiles([path]))


@contextmanager
def drafts_beside(file: Path, shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> Generator[dict[str, Tensor]]:
    """Provide tensors that are mapped from one nameless file, so that they are in the page cache, not in memory.

    Args:
        file: In whose folder.
        shapes: Shape per name.
        dtype: Of all.

    Raises:
        OSError: There is no room on the disk.
    """
    with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", suffix=".partial") as place:
        sizes = [shape.numel() for shape in shapes.values()]
        for size in sizes:
            place.write(bytes(size * dtype.itemsize))  # a hole that finds no room later on would be a SIGBUS
        place.flush()
        flat = torch.from_file(place.name, shared=True, size=sum(sizes), dtype=dtype)
        yield {name: part.view(shapes[name]) for name, part in zip(shapes, flat.split(sizes), strict=True)}


def _write(
    model: MergedModel, rows: Mapping[str, Rows], settings: CalibratedMerge, size: int, start: Start | None, file: Path
) -> None:
    vectors = model.vectors
    headers = {name: Header(shape, vectors.dtype) for name, shape in vectors.shapes.items()}
    with drafts_beside(file, vectors.shapes, vectors.dtype) as drafts:
        with _started(settings, start, file) as begun:
            settings.fill(model, rows, size, drafts, begun)
        with SafetensorsWriter(file, headers, {"format": "pt"}) as writer:
            for name, tensor in drafts.items():
                writer.write(name, tensor)


@contextmanager
def _started(settings: CalibratedMerge, start: Start | None, file: Path) -> Generator[Weights | None]:
    """Compute the merge that is refitted, and remove it afterwards."""
    if settings.refits is None or start is None:
        yield None
        return
    place = file.with_name(f"{file.stem}_start.safetensors")
    try:
        yield start(place)
    finally:
        with unhurried():
            place.unlink(missing_ok=True)
            key_file(place).unlink(missing_ok=True)


def check_rows(rows: int) -> None:
    """Refuse fewer rows than one.

    Raises:
        ConfigError: There are fewer.
    """
    if rows < 1:
        raise ConfigError(f"centre.rows: expected at least 1, found {rows}.")
