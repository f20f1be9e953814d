"""Hashes of the contents of rows: fingerprints, and the number of rows that two tables share."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from adamerge.batch import Batch
from adamerge.data.tables import Table


@dataclass(frozen=True)
class Contents:
    """Hashes of each row's contents, independent of column names, file name and file date.

    Attributes:
        columns: One hash per row, by role of the column (text, image, label and so on).
    """

    columns: Mapping[str, Sequence[bytes]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all rows in order."""
        digest = hashlib.sha256()
        for role, hashes in sorted(self.columns.items()):
            digest.update(role.encode() + len(hashes).to_bytes(8, "little") + b"".join(hashes))
        return digest.hexdigest()

    @property
    def count(self) -> int:
        """Number of rows that were read, also of those that are dropped because nothing of them counts."""
        return max(map(len, self.columns.values()), default=0)

    def overlap(self, other: "Contents") -> int:
        """Count the rows that `other` contains too; labels, and columns that only one of the two has, are ignored.

        Example:
            >>> Contents({"text": [b"1", b"2"]}).overlap(Contents({"text": [b"2", b"3"], "label": [b"0", b"1"]}))
            1
        """
        roles = sorted((self.columns.keys() & other.columns.keys()) - {"label"})
        if not roles:
            return 0
        known = set(zip(*(other.columns[role] for role in roles), strict=True))
        return sum(row in known for row in zip(*(self.columns[role] for role in roles), strict=True))


def contents(table: Table, columns: Mapping[str, str]) -> Contents:
    """Hash the columns that are used; this decodes every image once.

    Args:
        table: The rows.
        columns: Names of the used columns by role; that of role image is decoded.

    Returns:
        One hash per row and role.

    Raises:
        ConfigError: An image cannot be decoded; names its row and file.
    """
    return Contents({role: _hashes(table, role, column) for role, column in columns.items()})


def tensor_contents(rows: Sequence[Batch]) -> Contents:
    """Hash the inputs and labels of rows that are tensors; each batch is one row."""
    names = list(rows[0].inputs) if rows else []
    columns = {name: [_hash_tensor(row.inputs[name]) for row in rows] for name in names}
    labels = [_hash_tensor(row.labels) for row in rows if row.labels is not None]
    return Contents({**columns, **({"label": labels} if labels else {})})


def _hash_tensor(tensor: Tensor) -> bytes:
    stored = tensor.detach().cpu().contiguous()
    header = f"{stored.dtype}{tuple(stored.shape)}".encode()
    return hashlib.sha256(header + stored.view(torch.uint8).numpy().tobytes()).digest()


def _hashes(table: Table, role: str, column: str) -> list[bytes]:
    if role == "image":
        return [_hash_image(table.image(column, row)) for row in range(len(table))]
    names = table.class_names(column)
    values = (names[v] if names and isinstance(v, int) and v >= 0 else v for v in table.values(column))
    return [
        hashlib.sha256(json.dumps(_stripped(value), sort_keys=True, default=str).encode()).digest() for value in values
    ]


def hash_of(value: object, images: Sequence[Image.Image]) -> bytes:
    """Hash a JSON value and images."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode())
    for image in images:
        digest.update(_hash_image(image))
    return digest.digest()


def _hash_image(image: Image.Image) -> bytes:
    return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).digest()


def _stripped(value: object) -> object:
    """Remove keys whose value is None: `datasets` gives every message the keys of all messages."""
    if isinstance(value, dict):
        return {key: _stripped(inner) for key, inner in value.items() if inner is not None}
    return [_stripped(inner) for inner in value] if isinstance(value, list) else value
