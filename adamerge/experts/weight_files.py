"""Files of a checkpoint's weights: those that transformers would open, and no others unnoticed."""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from adamerge.experts.name_patterns import several
from adamerge.storage.links import inside
from adamerge.storage.regular_files import check_regular, problem_of, read_json, settings_of
from adamerge.storage.weights import InMemory, MappedFiles, Weights
from adamerge.types import ConfigError, IncompatibleExpertsError, quoted

SINGLE, PICKLE = "model.safetensors", "pytorch_model.bin"
_LIKE_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.pth", "*.gguf")
_OTHER_LIBRARIES = ("tf_model*.h5", "flax_model*.msgpack", "model.ckpt*", "rust_model.ot")
"""Weights of other libraries, which transformers once wrote or opened."""


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
    if explicit is not None and not isinstance(explicit, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise IncompatibleExpertsError(
            f"{folder / 'config.json'}: transformers_weights: expected the name of a file, found {quoted(explicit)}."
        )
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


def open_files(folder: Path, name: str) -> Weights | None:
    """Open the file of a name, or the shards that its index lists; None if there are none.

    Raises:
        IncompatibleExpertsError: They cannot be read.
    """
    files = next(_candidates(folder, name), None)
    if files is None:
        return None
    return _unpickled(files) if name.endswith(".bin") else MappedFiles(list(files))


def other_weights(folder: Path, read: Sequence[Path] = ()) -> list[str]:
    """List the files in a folder that look like weights and are not read; those of an adapter are read as one."""
    found = {file for pattern in _LIKE_WEIGHTS for file in folder.glob(pattern) if file.is_file()}
    if (folder / "adapter_config.json").exists():
        found -= {file for file in found if file.name.startswith("adapter")}
    return sorted(file.name for file in found - set(read))


def _notes(source: str, folder: Path, opened: Sequence[Path], read: set[Path]) -> Iterator[str]:
    others = other_weights(folder, list(read))
    others += sorted(file.name for pattern in _OTHER_LIBRARIES for file in folder.glob(pattern) if file.is_file())
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
    if index.exists() and not (name == SINGLE and (folder / name).exists() and _is_stale(folder, index)):
        shards = _shards(folder, index)
        if shards != (folder / name,):
            yield shards


def _is_stale(folder: Path, index: Path) -> bool:
    """Return whether none of an index's files is there: `save_pretrained` of one file leaves a former index."""
    names = settings_of(index).get("weight_map")
    return isinstance(names, dict) and bool(names) and not any((folder / str(n)).exists() for n in names.values())


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    """List the files that an index names."""
    found = read_json(index, IncompatibleExpertsError)
    places = found.get("weight_map", found) if isinstance(found, dict) else found
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise IncompatibleExpertsError(
            f"{index}: expected JSON with a weight_map that gives a file for each tensor, found {quoted(places)}. Copy "
            "or download the file again."
        )
    names = sorted(set(places.values()))
    for name in names:
        _check_inside(index, folder, name)
        problem = problem_of(folder / name)
        if problem is not None:
            what = "missing" if not os.path.lexists(folder / name) else problem.partition(".")[0]
            raise IncompatibleExpertsError(
                f"{folder / name}: {what}, but {index.name} lists it. Copy or download the file again."
            )
    return tuple(folder / name for name in names)


def _check_inside(by: Path, folder: Path, name: str) -> None:
    """Refuse a file that is not in the folder of what names it, be it by a link.

    Args:
        by: The file that names it.
        folder: The folder of the checkpoint.
        name: The name.
    """
    outside = not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts
    if outside or not inside(folder, folder / name):
        found = quoted(name) if outside else f"{name}, a link to {(folder / name).resolve()}"
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
    """List what is no tensor of plain numbers, by name or, of something that has no names, by type."""
    if not isinstance(content, Mapping):
        return [type(content).__name__]
    return [str(name) for name, value in content.items() if not isinstance(name, str) or not _is_plain(value)]


def _is_plain(value: object) -> bool:
    """Return whether a value is a tensor whose numbers are all in memory: not sparse, nested, quantised or on meta."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_quantized or value.is_nested)


def _load(file: Path) -> object:
    check_regular(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises any exception on damaged bytes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "unsupported" in line.lower()), lines[0])
        raise IncompatibleExpertsError(
            f"{file}: torch.load(weights_only=True) cannot read it: {reason}. Copy or download the file again, or "
            "convert it to safetensors."
        ) from error


def files_within(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder and in its folders, and all that is in folders of sentence-transformers modules."""
    for place in ("*", "*/*", "[0-9]*_*/**/*"):
        yield from folder.glob(place)
