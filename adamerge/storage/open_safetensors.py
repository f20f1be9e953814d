"""Open a safetensors file to read single tensors, with types that the library leaves out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from safetensors import safe_open
from torch import Tensor


class SafetensorsSlice(Protocol):
    """What the header says of one tensor."""

    def get_shape(self) -> list[int]:
        """Return its shape."""
        ...

    def get_dtype(self) -> str:
        """Return its dtype in the words of the format."""
        ...


class SafetensorsReader(Protocol):
    """An open file; it is closed with the last reference to it."""

    def keys(self) -> Sequence[str]:
        """List the names of its tensors."""
        ...

    def metadata(self) -> dict[str, str] | None:
        """Return the strings in its header."""
        ...

    def get_slice(self, name: str) -> SafetensorsSlice:
        """Return one tensor, not read."""
        ...

    def get_tensor(self, name: str) -> Tensor:
        """Return one tensor, on the CPU."""
        ...


def open_safetensors(path: str | Path) -> SafetensorsReader:
    """Open a file: its header is read and checked, its tensors are not.

    Raises:
        OSError: There is no such file.
        SafetensorError: It is truncated or not in the format.
    """
    return cast(SafetensorsReader, safe_open(path, framework="pt"))
