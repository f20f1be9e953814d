"""Files of a checkpoint's weights: those that transformers would open, and no others unnoticed."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from adamerge.experts.name_patterns import several
from adamerge.storage.weights import InMemory, MappedFiles, Weights
from adamerge.types import ConfigError, IncompatibleExpertsError

SINGLE, PICKLE = "model.safetensors", "pytorch_model.bin"
_LIKE_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.pth", "*.gguf")


def open_weights(
    source: str, folder: Path, *, allow_pickle: bool, explicit: str | None = None
) -> tuple[Weights, tuple[str, ...]] | None:
    """Open the weights that transformers would open, if the folder has any that may be read.

    Args:
        source: The checkpoint as the user wrote it.
        folder: Folder of its files.
        allow_pickle: Whether pickled weights may be read.
        explicit: Name of the file or index in config.json (`transformers_weights`).

    Returns:
        The weights, and notes of weights in the folder that are not read; None if there are no weights.

    Raises:
        ConfigError: Only pickled weights without permission to read them.
        IncompatibleExpertsError: Weights that cannot be read, or two different checkpoints in the folder.
    """
    if explicit:
        _check_inside(folder / "config.json", folder, explicit)
    found = [files for name in ([explicit] if explicit else [SINGLE]) for files in _candidates(folder, name)]
    pickles = list(_candidates(folder, PICKLE))
    if not found and pickles and not allow_pickle:
        raise ConfigError(
            f"{pickles[0][0]}: expected safetensors, but the weights are pickled, and unpickling can run code. Set "
            "allow_pickle: true to read them (with weights_only=True), or convert them to safetensors."
        )
    if not found and not pickles:
        return None
    weights = MappedFiles(list(found[0])) if found else _unpickled(pickles[0])
    others = [(files, MappedFiles(list(files))) for files in found[1:]]
    others += [(files, _unpickled(files)) for files in pickles[0 if found else 1 :] if allow_pickle]
    for files, other in others:
        _check_equal((found or pickles)[0], weights, files, other)
    read = {file for files in (*(found or pickles[:1]), *(files for files, _ in others)) for file in files}
    return weights, tuple(_notes(source, folder, (found or pickles)[0], read))


def other_weights(folder: Path, read: Sequence[Path] = ()) -> list[str]:
    """List the files in a folder that look like weights and are not read."""
    found = {file for pattern in _LIKE_WEIGHTS for file in folder.glob(pattern) if file.is_file()}
    return sorted(file.name for file in found - set(read))


def _notes(source: str, folder: Path, opened: Sequence[Path], read: set[Path]) -> Iterator[str]:
    others = other_weights(folder, list(read))
    if others:
        yield f"{source}: {several(others)} in the folder not read; transformers too opens {several(_names(opened))}."
    if read != set(opened):
        copies = several(_names(sorted(read - set(opened))))
        yield f"{source}: {copies} hold the same tensors as {several(_names(opened))}, which is opened."


def _names(files: Sequence[Path]) -> list[str]:
    return [file.name for file in files]


def _candidates(folder: Path, name: str) -> Iterator[tuple[Path, ...]]:
    """Yield the files of each checkpoint that a name can mean, in the order in which transformers prefers them."""
    index = folder / (name if name.endswith(".index.json") else f"{name}.index.json")
    if folder / name != index and (folder / name).exists():
        yield (folder / name,)
    if index.exists():
        shards = _shards(folder, index)
        if shards != (folder / name,):
            yield shards


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    """List the files that an index names."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        places = error
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise IncompatibleExpertsError(
            f"{index}: expected JSON with a weight_map that gives a file for each tensor, found {places!r:.100}. Copy "
            "or download the file again."
        )
    names = sorted(set(places.values()))
    for name in names:
        _check_inside(index, folder, name)
        if not (folder / name).is_file():
            raise IncompatibleExpertsError(
                f"{folder / name}: missing, but {index.name} lists it. Copy or download the file again."
            )
    return tuple(folder / name for name in names)


def _check_inside(by: Path, folder: Path, name: str) -> None:
    """Refuse a file that is not in the folder of what names it, be it by a link.

    The hub's cache links the files of a snapshot into the `blobs` of the same repository.

    Args:
        by: The file that names it.
        folder: The folder of the checkpoint.
        name: The name.
    """
    outside = Path(name).is_absolute() or ".." in Path(name).parts
    target, home = (folder / name).resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if outside or not (target.is_relative_to(home) or target.is_relative_to(blobs)):
        found = name if outside else f"{name}, a link to {target}"
        raise IncompatibleExpertsError(
            f"{by}: expected the names of files in its own folder, found {found}. Copy the files into the folder."
        )


def _check_equal(opened: Sequence[Path], weights: Weights, files: Sequence[Path], other: Weights) -> None:
    """Check that two checkpoints in one folder hold the same tensors; pickles may hold more names of tied ones."""
    both = [name for name in other.headers if name in weights]
    more = [name for name in weights.headers if name not in other]
    if isinstance(other, MappedFiles):
        more += [name for name in other.headers if name not in weights]
    different = more or [n for n in both if weights.headers[n] != other.headers[n] or not _same(n, weights, other)]
    if different:
        raise IncompatibleExpertsError(
            f"{opened[0].parent}: expected one checkpoint, found two that differ ({several(different)}): "
            f"{several(_names(opened))}, which transformers opens, and {several(_names(files))}. Remove the one that "
            "is out of date, with its index if it has one."
        )


def _same(name: str, one: Weights, other: Weights) -> bool:
    return torch.equal(one[name], other[name])


def _unpickled(files: Sequence[Path]) -> InMemory:
    tensors: dict[str, Tensor] = {}
    for file in files:
        content = _load(file)
        other = _not_tensors(content)
        if other:
            raise IncompatibleExpertsError(
                f"{file}: expected tensors by name, found something else ({several(other)}). It may be a trainer's "
                "checkpoint: save the model alone, with save_pretrained."
            )
        tensors |= cast(dict[str, Tensor], content)
    return InMemory(tensors, list(files))


def _not_tensors(content: object) -> list[str]:
    """List what is no tensor, by name or, of something that has no names, by type."""
    if not isinstance(content, Mapping):
        return [type(content).__name__]
    return [str(name) for name, value in content.items() if not isinstance(value, Tensor)]


def _load(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises any exception on damaged bytes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "unsupported" in line.lower()), lines[0])
        raise IncompatibleExpertsError(
            f"{file}: torch.load(weights_only=True) cannot read it: {reason}. Copy or download the file again, or "
            "convert it to safetensors."
        ) from error
