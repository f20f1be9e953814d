"""Named tensors of one checkpoint: in memory, or memory-mapped safetensors (sharded too)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import override

from adamerge.types import IncompatibleExpertsError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' words for the dtypes a checkpoint may hold."""


class Header(NamedTuple):
    """What a file's header says of one tensor."""

    shape: torch.Size
    dtype: torch.dtype


class Weights(ABC):
    """The tensors of one checkpoint by name. Reading one never alters it."""

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, Header]:
        """Shape and dtype of every tensor, known without reading it."""

    @abstractmethod
    def __getitem__(self, name: str) -> Tensor:
        """One tensor, on the CPU; a view of memory that belongs to the checkpoint."""

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of that name."""
        return name in self.headers

    def shape(self, name: str) -> torch.Size:
        """Shape of one tensor."""
        return self.headers[name].shape


class InMemory(Weights):
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self._headers = {name: Header(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

    @property
    @override
    def headers(self) -> Mapping[str, Header]:
        return self._headers

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]


class MappedFiles(Weights):
    """Safetensors files, memory-mapped: the page cache holds the numbers, not the process.

    Raises:
        IncompatibleExpertsError: A file is truncated, corrupt or of an unknown dtype.
    """

    def __init__(self, files: list[Path]) -> None:
        self._headers: dict[str, Header] = {}
        self._readers: dict[str, safe_open] = {}
        for file in files:
            with _readable(file):
                reader = safe_open(file, framework="pt")
                for name in reader.keys():
                    entry = reader.get_slice(name)
                    self._headers[name] = Header(torch.Size(entry.get_shape()), _dtype(entry.get_dtype(), name, file))
                    self._readers[name] = reader

    @property
    @override
    def headers(self) -> Mapping[str, Header]:
        return self._headers

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name].get_tensor(name)


def metadata_of(file: Path) -> dict[str, str] | None:
    """Metadata of a safetensors file; None if there is no such file, or it is damaged."""
    try:
        with safe_open(file, framework="pt") as kept:
            return kept.metadata() or {}
    except (OSError, SafetensorError):
        return None


class Renamed(Weights):
    """The tensors of another checkpoint under other names.

    Args:
        source: Where the tensors are.
        names: Name there of each name here.
    """

    def __init__(self, source: Weights, names: Mapping[str, str]) -> None:
        self._source, self._names = source, names
        self._headers = {name: source.headers[original] for name, original in names.items()}

    @property
    @override
    def headers(self) -> Mapping[str, Header]:
        return self._headers

    def __getitem__(self, name: str) -> Tensor:
        return self._source[self._names[name]]


class Joined(Weights):
    """Two checkpoints as one; what both have is taken from the first.

    Args:
        first: Asked first.
        second: Has what the first lacks.
    """

    def __init__(self, first: Weights, second: Weights) -> None:
        self._first, self._second = first, second
        self._headers = {**second.headers, **first.headers}

    @property
    @override
    def headers(self) -> Mapping[str, Header]:
        return self._headers

    def __getitem__(self, name: str) -> Tensor:
        return (self._first if name in self._first else self._second)[name]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise IncompatibleExpertsError(
            f"{file}: expected a complete safetensors file, but it cannot be read ({error}). "
            "It was probably cut off or damaged while it was written or copied: copy or download it again."
        ) from error


def _dtype(word: str, name: str, file: Path) -> torch.dtype:
    if word not in DTYPES:
        raise IncompatibleExpertsError(f"{file}: tensor {name} has dtype {word}; known are {', '.join(DTYPES)}.")
    return DTYPES[word]
