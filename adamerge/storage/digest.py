"""SHA-256 of tensors, settings, files and folders; files can be hashed while other code reads them.

Checksums of tensors, which are faster, say whether a file still holds what was just written.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

_PIECE = 2**20
"""Bytes per read of a file."""


class Stamp(NamedTuple):
    """What changes when a file is written or replaced; compared where hashing would take too long."""

    size: int
    time: int
    inode: int


def stamp_of(path: Path) -> Stamp | None:
    """Return size, time of writing and inode of a file; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors: names, dtypes, shapes and values; the order does not matter.

    Example:
        >>> one, two = torch.zeros(2), torch.ones(2)
        >>> digest_of({"a": one, "b": two}) == digest_of({"b": two, "a": one}) != digest_of({"a": two, "b": one})
        True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def digest_of_json(value: object) -> str:
    """Hash a JSON value; the order of keys does not matter.

    Example:
        >>> digest_of_json({"a": 1, "b": 2}) == digest_of_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_path(path: Path) -> str:
    """Hash the content of a file, or the names and contents of all files in a folder."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest_of_json([[str(file.relative_to(path)), digest_of_path(file)] for file in files])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checksum(NamedTuple):
    """What two tensors have in common if they are equal bit by bit: CRC-32 finds errors, not what was forged."""

    dtype: torch.dtype
    shape: torch.Size
    crc: int


def checksum_of(tensor: Tensor) -> Checksum:
    """Return dtype, shape and CRC-32 of a tensor, which take a second for some GB.

    Example:
        >>> checksum_of(torch.zeros(2)) == checksum_of(torch.zeros(2)) != checksum_of(-torch.zeros(2))
        True
    """
    return Checksum(tensor.dtype, tensor.shape, zlib.crc32(bytes_of(tensor)))


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a tensor's values as bytes; a view if the tensor is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


class FileDigest:
    """SHA-256 of a file; code that reads the file passes its bytes to `show`, so that they are read only once.

    Bytes must be hashed in file order: bytes before the passed ones that were not passed are read here, and
    `hexdigest` reads the rest of the file.

    Args:
        path: File to hash.

    Attributes:
        bytes_read: Number of bytes that were not passed to `show`, and were read here.
        stamp: Size, time and inode when it was opened.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_bytes(b"head body")
        ...     seen, alone = FileDigest(Path(file.name)), digest_of_path(Path(file.name))
        ...     seen.show(5, memoryview(b"body"))
        ...     print(seen.hexdigest() == alone, seen.bytes_read)
        True 5
    """

    def __init__(self, path: Path) -> None:
        self.path, self.bytes_read, self.stamp = path, 0, stamp_of(path)
        self._hash, self._position = hashlib.sha256(), 0
        self._found: str | None = None

    def show(self, start: int, data: memoryview) -> None:
        """Hash bytes of the file that begin at `start`, unless they were hashed before."""
        if self._found is None and start >= self._position:
            self._read_until(start)
            self._hash.update(data)
            self._position += len(data)

    def hexdigest(self) -> str:
        """Return the digest of the whole file; computed once."""
        if self._found is None:
            self._read_until(self.path.stat().st_size)
            self._found = self._hash.hexdigest()
        return self._found

    def _read_until(self, end: int) -> None:
        if end == self._position:
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            while self._position < end and (data := file.read(min(_PIECE, end - self._position))):
                self._hash.update(data)
                self._position += len(data)
                self.bytes_read += len(data)


FileIdentity: TypeAlias = Callable[[FileDigest], str]
"""What stands for a file in the digest of what is read from it: its SHA-256, or `identity_of`, which reads nothing."""


def identity_of(file: FileDigest) -> str:
    """Return size, time and inode of a file as it was opened, as words: the same file, unless it was written since."""
    return "gone" if file.stamp is None else " ".join(map(str, file.stamp))


def finish(files: Iterable[FileDigest]) -> None:
    """Hash what is left of several files, as many at a time as there are cores, up to four.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     digest = FileDigest(Path(file.name))
        ...     finish([digest, digest])
        ...     digest.hexdigest() == hashlib.sha256().hexdigest()
        True
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(FileDigest.hexdigest, dict.fromkeys(files)):
            pass
