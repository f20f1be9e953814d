"""Files that are complete or absent, never half."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from io import BufferedWriter
from pathlib import Path
from types import TracebackType

from torch import Tensor

from adamerge.storage.digest import bytes_of
from adamerge.storage.weights import DTYPES, Header


@contextmanager
def whole_file(path: Path) -> Generator[BufferedWriter]:
    """A file to write into that appears at `path`, synced, only when the block ends without an exception.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "a.txt") as file:
        ...         _ = file.write(b"words")
        ...         print(os.listdir(folder))
        ...     print(os.listdir(folder))
        ['.a.txt.partial']
        ['a.txt']
    """
    part = partial_name(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say by itself which file it cut off
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """A folder to write into that appears at `path`, synced, only when the block ends without an exception."""
    part = partial_name(path)
    shutil.rmtree(part, ignore_errors=True)  # left there by a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
        for inside in (*part.rglob("*"), part):
            _sync(inside)
        part.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    """Put a file, or a folder's names, on disk: a synced file may still lose its name when the power fails."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            error.filename = str(path)
            raise
    finally:
        os.close(handle)


def partial_name(path: Path) -> Path:
    """Where a file or folder is written before it is renamed in whole."""
    return path.with_name(f".{path.name}.partial")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors that are in memory as one complete file, or none."""
    headers = {name: Header(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    with SafetensorsWriter(path, headers, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


class SafetensorsWriter:
    """Writes one safetensors file tensor by tensor, so that no more than one of them need be in memory.

    The file appears under its name only when it is complete and on disk: a writer that is left by an exception, a kill
    or a full disk leaves nothing of that name. The format: 8 bytes with the header's length, a JSON header with each
    tensor's dtype, shape and offsets, the numbers (https://huggingface.co/docs/safetensors/index#format).

    Args:
        path: The file to write.
        headers: Shape and dtype of every tensor that will be written.
        metadata: Strings for the header.
    """

    _file: BufferedWriter
    _whole: ExitStack

    def __init__(self, path: Path, headers: Mapping[str, Header], metadata: Mapping[str, str]) -> None:
        self._path, self._headers = path, headers
        words = {dtype: word for word, dtype in DTYPES.items()}
        self._offsets: dict[str, int] = {}
        entries: dict[str, object] = {"__metadata__": dict(metadata)}
        end = 0
        for name, (shape, dtype) in headers.items():
            start, end = end, end + shape.numel() * dtype.itemsize
            entries[name] = {"dtype": words[dtype], "shape": list(shape), "data_offsets": [start, end]}
            self._offsets[name] = start
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        self._header = struct.pack("<Q", len(text)) + text
        self._end = len(self._header) + end

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one of the tensors that the header announces, in any order.

        Raises:
            ValueError: Shape or dtype is not what the header says.
        """
        if Header(tensor.shape, tensor.dtype) != self._headers[name]:
            raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} is not {self._headers[name]}")
        self._file.seek(len(self._header) + self._offsets.pop(name))
        self._file.write(bytes_of(tensor))

    def __enter__(self) -> "SafetensorsWriter":
        """Begin to write."""
        with ExitStack() as whole:
            self._file = whole.enter_context(whole_file(self._path))
            self._file.write(self._header)
            self._whole = whole.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the complete file in its place, or remove what there is of it."""
        if kind is None:
            assert not self._offsets, f"never written: {list(self._offsets)}"
            self._file.truncate(self._end)
        self._whole.__exit__(kind, error, trace)
