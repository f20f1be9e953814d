"""Files of a merged checkpoint: backbone, index, heads and configuration."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.conversion import Written, written
from adamerge.experts.conversion import places as places_of
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.match_names import match
from adamerge.experts.own_class import of_base
from adamerge.experts.tied import tied_names
from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import as_on_disk, exact_parameters
from adamerge.results.surviving import SurvivingShare
from adamerge.results.whose_files import Plan, has_own_folder
from adamerge.results.write_beside import copy_module_weights, write_beside, write_config
from adamerge.storage.atomic_files import write_text
from adamerge.storage.digest import Checksum, checksum_of
from adamerge.storage.weights import Header, MappedFiles, Weights
from adamerge.storage.write_safetensors import SafetensorsWriter, write_safetensors
from adamerge.types import Coefficients

Files: TypeAlias = Mapping[str, Mapping[str, Header]]
"""Safetensors files by name, each with the headers of its tensors."""

_METADATA = {"format": "pt"}


def checkpoints(experts: Experts, folder: Path) -> dict[str, Path]:
    """Name the folder of an exported checkpoint that loads as each task's model."""
    apart = has_own_folder(experts)
    return {task: folder / task if task in apart else folder for task in experts.tasks}


@dataclass(frozen=True)
class Backbone:
    """What the models of all tasks have in common, as it was written into the merged checkpoint.

    Attributes:
        files: Its tensors by file.
        alone: Whether these files hold nothing else.
        most: Largest size of one file.
        checksums: Of its tensors by name in the module, as they were merged.
    """

    files: Files
    alone: bool
    most: int
    checksums: Mapping[str, Checksum]

    @property
    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(map(_bytes, self.files.values()))


def write_backbone(
    model: MergedModel,
    coefficients: Coefficients,
    folder: Path,
    shard_bytes: int,
    surviving: SurvivingShare,
    rest: Mapping[str, Tensor],
) -> Backbone:
    """Write the merged checkpoint's weights, one merged tensor in memory at a time: one file where that is allowed.

    Args:
        model: Experts and task vectors.
        coefficients: (G, K).
        folder: Where to.
        shard_bytes: Maximum size of one file.
        surviving: Gets what rounding left.
        rest: What the base alone has.
    """
    units = written(next(iter(model.experts.tasks.values())).own_module, model.experts.backbone)
    shards = _divide([_headers_of(unit, model) for unit in units], shard_bytes)
    more = _headers(rest)
    joined = len(shards) == 1 and sum(map(_bytes, shards[0])) + _bytes(more) <= shard_bytes
    count = len(shards) + (bool(rest) and not joined)
    files = {
        file_name(number, count): {n: h for i in shard for n, h in i.items()} for number, shard in enumerate(shards, 1)
    }
    checksums: dict[str, Checksum] = {}
    names = [name for unit in units for name in unit.names]
    parameters = _noted(exact_parameters(model, coefficients, surviving, names), checksums)
    tensors = (pair for unit in units for pair in unit.apply(dict(islice(parameters, len(unit.names)))).items())
    for file, headers in files.items():
        _write(folder / file, headers, islice(tensors, len(headers)), rest if joined else {})
    if rest and not joined:
        write_safetensors(folder / file_name(count, count), rest, _METADATA)
    write_index(folder, {**files, file_name(count, count): more} if rest and not joined else files)
    return Backbone(files, not (rest and joined), shard_bytes, checksums)


def _noted(tensors: Iterable[tuple[str, Tensor]], checksums: dict[str, Checksum]) -> Iterator[tuple[str, Tensor]]:
    """Note the checksum of each tensor that passes."""
    for name, tensor in tensors:
        checksums[name] = checksum_of(tensor)
        yield name, tensor


def _write(
    path: Path, headers: Mapping[str, Header], tensors: Iterable[tuple[str, Tensor]], more: Mapping[str, Tensor]
) -> None:
    """Write one file of tensors that come one by one, and of some that are in memory."""
    with SafetensorsWriter(path, {**headers, **_headers(more)}, _METADATA) as writer:
        for name, tensor in chain(tensors, more.items()):
            writer.write(name, tensor)


def _headers(tensors: Mapping[str, Tensor]) -> dict[str, Header]:
    return {name: Header(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _bytes(headers: Mapping[str, Header]) -> int:
    return sum(shape.numel() * dtype.itemsize for shape, dtype in headers.values())


def file_name(number: int, count: int) -> str:
    """Name one of a checkpoint's files of weights; these are the names that `save_pretrained` removes or replaces.

    Example:
        >>> file_name(1, 1), file_name(2, 3)
        ('model.safetensors', 'model-00002-of-00003.safetensors')
    """
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _headers_of(unit: Written, model: MergedModel) -> dict[str, Header]:
    """Return shapes and dtypes of what is written together, by name in the file."""
    shapes, dtypes = model.experts.base, model.rounding.dtypes
    meta = {n: torch.empty(shapes.shape(n), dtype=dtypes[n], device="meta") for n in unit.names}
    return {name: Header(tensor.shape, tensor.dtype) for name, tensor in unit.apply(meta).items()}


def _divide(units: Sequence[dict[str, Header]], shard_bytes: int) -> list[list[dict[str, Header]]]:
    """Divide what is written together among files: a new file begins where the next would not fit."""
    shards: list[list[dict[str, Header]]] = [[]]
    size = 0
    for unit in units:
        own = _bytes(unit)
        size += own
        if size > shard_bytes and shards[-1]:
            shards.append([])
            size = own
        shards[-1].append(unit)
    return shards


def write_index(folder: Path, files: Files) -> None:
    """Write which file of a checkpoint holds which tensor, if there are several."""
    if len(files) == 1:
        return
    headers = {name: header for file in files.values() for name, header in file.items()}
    index = {
        "metadata": {
            "total_parameters": sum(shape.numel() for shape, _ in headers.values()),
            "total_size": _bytes(headers),
        },
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def rest_of_base(experts: Experts) -> dict[str, Tensor]:
    """Return what the base alone has, its own head for example, which tasks do not link to, under today's names."""
    assert experts.checkpoint is not None
    backbone = set(experts.backbone)
    module = next(iter(experts.tasks.values())).own_module
    rest = _on_disk(module, {name: experts.base[name] for name in experts.base.headers if name not in backbone})
    own, left = of_base(experts.checkpoint), experts.checkpoint.tensors
    places = {name: disk for name, disk in match(experts.checkpoint, own).names.items() if isinstance(disk, str)}
    names = {disk: name for name, disk in places.items()}
    alone = [disk for disk in experts.left_out if not _is_tied(disk, names.get(disk, disk), own, places, left)]
    rest |= _on_disk(own, {names[disk]: left[disk] for disk in alone if disk in names})
    today = places_of(own, [disk for disk in alone if disk not in names]).without
    return rest | {name: left[disk] for disk, name in today.items()}


def _is_tied(disk: str, name: str, module: nn.Module, places: Mapping[str, str], tensors: Weights) -> bool:
    """Return whether a tensor of a file is the second name of a tied parameter, whose first name the file has too."""
    first = next((places.get(aliases[0]) for aliases in tied_names(module) if name in aliases[1:]), None)
    return first not in (None, disk) and torch.equal(tensors[str(first)], tensors[disk])


def write_task(
    expert: Expert,
    base: Checkpoint,
    root: Path,
    backbone: Backbone,
    plan: Plan,
    dtype: torch.dtype | None,
    usual: str,
    *,
    links: bool = True,
) -> None:
    """Make the folder that loads as one task's model: the backbone, the head, and what lies beside them."""
    folder, beside = root / expert.name, plan.tasks[expert.name]
    folder.mkdir()
    head = _on_disk(expert.own_module, {name: expert.weights[name] for name in expert.whole_head})
    _write_weights(root, backbone, as_on_disk(head, dtype), folder, links)
    assert expert.checkpoint is not None
    config = base if expert.prefix else expert.checkpoint  # a zero-shot task loads as the base's own class
    write_config(config, beside.token_ids if expert.prefix else {}, folder, usual)
    write_beside(beside, folder)
    copy_module_weights(beside, folder)


def _write_weights(root: Path, backbone: Backbone, head: Mapping[str, Tensor], folder: Path, links: bool) -> None:
    """Write a task's weights: one file where that is allowed, as `save_pretrained` would; else backbone and head apart.

    `save_pretrained` of one file leaves the index of several. A file that holds the backbone alone is linked.
    """
    one = backbone.bytes + _bytes(_headers(head)) <= backbone.most
    inside = head if one else {}
    count = len(backbone.files) + (bool(head) and not one)
    places = {file: file_name(number, count) for number, file in enumerate(backbone.files, 1)}
    for file, place in places.items():
        if backbone.alone and not inside:
            _share(root / file, folder / place, links)
        else:
            headers, tensors = backbone.files[file], MappedFiles([root / file])
            _write(folder / place, headers, ((name, tensors[name]) for name in headers), inside)
    names = {place: backbone.files[file] for file, place in places.items()}
    if head and not one:
        write_safetensors(folder / file_name(count, count), head, _METADATA)
        names |= {file_name(count, count): _headers(head)}
    write_index(folder, names)


def _on_disk(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a module's tensors as `save_pretrained` writes them, by name in the file."""
    units = written(module, list(tensors))
    return {n: t for unit in units for n, t in unit.apply({name: tensors[name] for name in unit.names}).items()}


def _share(source: Path, target: Path, links: bool) -> None:
    """Link a file to another place, or copy it."""
    if links:
        with suppress(OSError):  # another file system, or one without links
            os.link(source, target)
            return
    shutil.copyfile(source, target)
