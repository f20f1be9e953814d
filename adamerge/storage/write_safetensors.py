"""Write safetensors files that are either complete or absent, all at once or tensor by tensor."""

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from io import BufferedWriter
from pathlib import Path
from threading import Lock
from types import TracebackType

from torch import Tensor

from adamerge.storage.atomic_files import whole_file
from adamerge.storage.digest import bytes_of
from adamerge.storage.weights import DTYPES, Header, headers_of

_PIECE = 2**20
"""Bytes per read of a file."""


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors from memory as one complete file, or none."""
    with SafetensorsWriter(path, headers_of(tensors), metadata) as writer:
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
        opened: Opens the file; `file_in_place` keeps what it holds, to go on in it.
    """

    _file: BufferedWriter
    _whole: ExitStack

    def __init__(
        self,
        path: Path,
        headers: Mapping[str, Header],
        metadata: Mapping[str, str],
        opened: Callable[[Path], AbstractContextManager[BufferedWriter]] = whole_file,
    ) -> None:
        self._path, self._headers, self._opened, self._lock = path, headers, opened, Lock()
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
        """Write one tensor of the header; the order is free, and several threads may write.

        Raises:
            ValueError: Shape or dtype differs from the header.
        """
        if Header(tensor.shape, tensor.dtype) != self._headers[name]:
            raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} is not {self._headers[name]}")
        with self._lock:
            self._file.seek(len(self._header) + self._offsets.pop(name))
            self._file.write(bytes_of(tensor))

    def flush(self) -> None:
        """Pass what was written to the system: it stays if this process is killed."""
        self._file.flush()

    def keep(self, checksums: Mapping[str, int]) -> bool:
        """Take tensors as they lie in the file, opened in place, if their bytes have these CRC-32.

        Returns:
            Whether they have; if not, they must be written.
        """
        self._file.flush()
        if any(self._crc(name) != crc for name, crc in checksums.items()):
            return False
        for name in checksums:
            del self._offsets[name]
        return True

    def _crc(self, name: str) -> int:
        """Return the CRC-32 of what lies in the file where a tensor belongs."""
        start, (shape, dtype) = len(self._header) + self._offsets[name], self._headers[name]
        end, crc = start + shape.numel() * dtype.itemsize, 0
        for at in range(start, end, _PIECE):
            crc = zlib.crc32(os.pread(self._file.fileno(), min(_PIECE, end - at), at), crc)
        return crc

    def __enter__(self) -> "SafetensorsWriter":
        """Begin to write."""
        with ExitStack() as whole:
            self._file = whole.enter_context(self._opened(self._path))
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
