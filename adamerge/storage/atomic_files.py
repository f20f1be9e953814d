"""Write files and folders that are either complete or absent, never incomplete."""

import errno
import json
import os
import struct
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from io import BufferedWriter
from pathlib import Path
from types import TracebackType

from torch import Tensor

from adamerge.storage.digest import bytes_of
from adamerge.storage.partial_paths import new_partial_file, new_partial_folder, remove, remove_leftovers_of
from adamerge.storage.weights import DTYPES, Header


@contextmanager
def whole_file(path: Path) -> Generator[BufferedWriter]:
    """Open a file that appears at `path`, synced, only if the block ends without an exception.

    Until then it has a random name, and is locked: what a killed process left is removed by the next one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder) / "a.txt") as file:
        ...         _ = file.write(b"words")
        ...         print(*(name[-8:] for name in os.listdir(folder)))
        ...     print(os.listdir(folder))
        .partial
        ['a.txt']
    """
    try:
        remove_leftovers_of(path)
        part, handle = new_partial_file(path)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
                _sync(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a full disk does not name the file
        raise


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """Make a folder that appears at `path`, synced, only if the block ends without an exception.

    Until then it has a random name, and is locked: what a killed process left is removed by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers_of(path)
    part, handle = new_partial_folder(path)
    try:
        yield part
        for inside in (*part.rglob("*"), part):
            _sync(inside)
        part.rename(path)
        _sync(path.parent)
    finally:
        remove(part)
        os.close(handle)


def remove_whole(path: Path) -> None:
    """Remove a folder that others never see incomplete: it is renamed first."""
    remove_leftovers_of(path)
    part, handle = new_partial_folder(path)
    try:
        path.rename(part / "removed")
    finally:
        remove(part)
        os.close(handle)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk: without its folder, a synced file may lose its name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            error.filename = str(path)
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a complete text file, or none."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors from memory as one complete file, or none."""
    headers = {name: Header(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    with SafetensorsWriter(path, headers, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


class SafetensorsWriter:
    """Write one safetensors file tensor by tensor, so that only one tensor must be in memory.

    The file appears at its path only when it is complete and on disk; after an exception, a kill or a full disk there
    is no file. Format: 8 bytes with the header's length, a JSON header with each tensor's dtype, shape and offsets, the
    tensors' bytes (https://huggingface.co/docs/safetensors/index#format).

    Args:
        path: File to write.
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
        """Write one tensor of the header; the order is free.

        Raises:
            ValueError: Shape or dtype differs from the header.
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
        """Rename the complete file to its path, or delete the incomplete one."""
        if kind is None:
            assert not self._offsets, f"never written: {list(self._offsets)}"
            self._file.truncate(self._end)
        self._whole.__exit__(kind, error, trace)
