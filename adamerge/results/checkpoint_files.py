"""Names, headers and index of the files of weights of one checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from adamerge.storage.atomic_files import write_text
from adamerge.storage.weights import Header

Files: TypeAlias = Mapping[str, Mapping[str, Header]]
"""Safetensors files by name, each with the headers of its tensors."""

METADATA = {"format": "pt"}
"""What transformers writes into every file of weights."""


def size_of(headers: Mapping[str, Header]) -> int:
    """Return the size of tensors in a file."""
    return sum(shape.numel() * dtype.itemsize for shape, dtype in headers.values())


def file_name(number: int, count: int) -> str:
    """Name one of a checkpoint's files of weights; these are the names that `save_pretrained` removes or replaces.

    Example:
        >>> file_name(1, 1), file_name(2, 3)
        ('model.safetensors', 'model-00002-of-00003.safetensors')
    """
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def write_index(folder: Path, files: Files) -> None:
    """Write which file of a checkpoint holds which tensor, if there are several."""
    if len(files) == 1:
        return
    headers = {name: header for file in files.values() for name, header in file.items()}
    index = {
        "metadata": {
            "total_parameters": sum(shape.numel() for shape, _ in headers.values()),
            "total_size": size_of(headers),
        },
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
