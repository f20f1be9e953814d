"""Named tensors of one checkpoint: in memory, or memory-mapped safetensors (sharded too)."""

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from typing_extensions import override

from adamerge.storage.digest import FileDigest, FileIdentity, bytes_of, digest_of, digest_of_json, stamp_of
from adamerge.storage.open_safetensors import SafetensorsReader, open_safetensors
from adamerge.storage.regular_files import check_regular
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
"""dtypes that a checkpoint may have, per name in safetensors."""


class Header(NamedTuple):
    """Shape and dtype of one tensor, as in a file's header."""

    shape: torch.Size
    dtype: torch.dtype


def headers_of(tensors: Mapping[str, Tensor]) -> dict[str, Header]:
    """Return the headers of tensors."""
    return {name: Header(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


class Weights(ABC):
    """Tensors of one checkpoint by name; reading never changes them.

    By default the tensors are in no file, and the digest is that of their values. Subclasses set `_headers`.
    """

    _headers: Mapping[str, Header]

    @property
    def headers(self) -> Mapping[str, Header]:
        """Shape and dtype of every tensor, available without reading it."""
        return self._headers

    @abstractmethod
    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor, on the CPU; a view of the checkpoint's memory."""

    def __contains__(self, name: str) -> bool:
        """Return whether the checkpoint has a tensor of that name."""
        return name in self.headers

    def shape(self, name: str) -> torch.Size:
        """Return the shape of one tensor."""
        return self.headers[name].shape

    @property
    def files(self) -> Mapping[Path, FileDigest]:
        """Files that the tensors were read from, with their digests; empty if they were not read from files."""
        return {}

    def place(self, name: str) -> tuple[str, int]:
        """Return a tensor's file and its first byte there, to read tensors in file order."""
        return "", 0

    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        """Yield one tensor, flat, at most `size` elements at a time; hashes a file's bytes as they are read."""
        return iter(torch.split(self[name].reshape(-1), size))

    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        """Hash all tensors and their names; for files, hash their bytes, once.

        Args:
            file: What stands for a file instead of its hash.
        """
        if self.files:
            return digest_of_json(sorted(map(file, self.files.values())))
        return digest_of_json([[name, digest_of({name: self[name]})] for name in sorted(self.headers)])


class InMemory(Weights):
    """Tensors in memory.

    Args:
        tensors: Tensors by name; those on a GPU are copied.
        files: Files that the tensors were read from, if any.
    """

    def __init__(self, tensors: Mapping[str, Tensor], files: Sequence[Path] = ()) -> None:
        self._files = {file: FileDigest(file) for file in files}
        self._tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        self._headers = headers_of(tensors)

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._files

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]


class MappedFiles(Weights):
    """Memory-mapped safetensors files: the values are in the page cache, not in the process's own memory.

    A tensor's view is made once and kept: safetensors leaks 64 bytes for each view that it makes.

    Raises:
        IncompatibleExpertsError: A file is truncated, corrupt or of an unknown dtype.
    """

    def __init__(self, files: list[Path]) -> None:
        headers: dict[str, Header] = {}
        self._readers: dict[str, SafetensorsReader] = {}
        self._files = {file: FileDigest(file) for file in files}
        self._places: dict[str, tuple[FileDigest, int]] = {}
        self._views: dict[str, Tensor] = {}
        for file, digest in self._files.items():
            with _readable(file):
                reader = open_safetensors(file)
                for name in reader.keys():
                    self._check_once(name, reader, file)
                    entry = reader.get_slice(name)
                    headers[name] = Header(torch.Size(entry.get_shape()), _dtype(entry.get_dtype(), name, file))
                    self._readers[name] = reader
                self._places |= {name: (digest, start) for name, start in _starts(file).items()}
        self._headers = headers

    def _check_once(self, name: str, reader: SafetensorsReader, file: Path) -> None:
        """Check that a tensor in several files has equal values in them."""
        if name in self._readers and not torch.equal(self[name], reader.get_tensor(name)):
            raise IncompatibleExpertsError(
                f"{file}: expected each tensor once, but {name} is in {self._places[name][0].path.name} too, with "
                "other values. One of the files is out of date: save or download the checkpoint again."
            )

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._files

    @override
    def place(self, name: str) -> tuple[str, int]:
        digest, start = self._places[name]
        return str(digest.path), start

    @override
    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        digest, start = self._places[name]
        for piece in torch.split(self[name].reshape(-1), size):
            digest.show(start, bytes_of(piece))
            start += piece.nbytes
            yield piece

    def __getitem__(self, name: str) -> Tensor:
        check_whole([self._places[name][0]])
        if name not in self._views:
            self._views[name] = self._readers[name].get_tensor(name)
        return self._views[name]


def check_whole(files: Iterable[FileDigest]) -> None:
    """Check that mapped files are as long as they were: the system would end the process that reads beyond their end.

    Args:
        files: Files as they were opened. One that was replaced by another file is still there for who has mapped it.

    Raises:
        IncompatibleExpertsError: One was cut off; names it.
    """
    for opened in files:
        then, now = opened.stamp, stamp_of(opened.path)
        if then is not None and now is not None and now.inode == then.inode and now.size < then.size:
            raise IncompatibleExpertsError(
                f"{opened.path}: expected {then.size} bytes, as when it was opened, found {now.size}: it was cut off "
                "while it was in use. Restore it, and start again or resume the run."
            )


def _starts(file: Path) -> dict[str, int]:
    """Return the first byte of each tensor in a safetensors file."""
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        entries = json.loads(content.read(length))
    return {name: 8 + length + e["data_offsets"][0] for name, e in entries.items() if name != "__metadata__"}


class Renamed(Weights):
    """Tensors of another checkpoint under other names.

    Args:
        source: Checkpoint with the tensors.
        names: Name in the source per new name.
    """

    def __init__(self, source: Weights, names: Mapping[str, str]) -> None:
        self._source, self._names = source, names
        self._headers = {name: source.headers[original] for name, original in names.items()}

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._source.files

    @override
    def place(self, name: str) -> tuple[str, int]:
        return self._source.place(self._names[name])

    @override
    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        return self._source.pieces(self._names[name], size)

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        return digest_of_json([sorted(self._names.items()), self._source.digest(file)])

    def __getitem__(self, name: str) -> Tensor:
        return self._source[self._names[name]]


class Joined(Weights):
    """Two checkpoints as one; tensors in both are read from the first.

    Args:
        first: Preferred checkpoint.
        second: Checkpoint for tensors that the first does not have.
    """

    def __init__(self, first: Weights, second: Weights) -> None:
        self._first, self._second = first, second
        self._headers = {**second.headers, **first.headers}

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return {**self._second.files, **self._first.files}

    @override
    def place(self, name: str) -> tuple[str, int]:
        return self._of(name).place(name)

    @override
    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        return self._of(name).pieces(name, size)

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        return digest_of_json([self._first.digest(file), self._second.digest(file)])

    def __getitem__(self, name: str) -> Tensor:
        return self._of(name)[name]

    def _of(self, name: str) -> Weights:
        return self._first if name in self._first else self._second


@contextmanager
def _readable(file: Path) -> Generator[None]:
    check_regular(file)
    try:
        yield
    except (SafetensorError, OSError, ValueError, OverflowError, TypeError) as error:
        if isinstance(error, IncompatibleExpertsError):
            raise
        raise IncompatibleExpertsError(
            f"{file}: expected a complete safetensors file, but it cannot be read ({error}). "
            "It was probably cut off or damaged while it was written or copied: copy or download it again."
        ) from error


def _dtype(word: str, name: str, file: Path) -> torch.dtype:
    if word not in DTYPES:
        raise IncompatibleExpertsError(
            f"{file}: tensor {name} has dtype {word}; known are {', '.join(DTYPES)}. Save it in one of them, or "
            "remove it if the model does not use it."
        )
    return DTYPES[word]
