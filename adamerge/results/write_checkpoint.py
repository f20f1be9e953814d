"""Folders of a merged checkpoint: what the base alone has, heads, and the files that accompany them."""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.conversion import places as places_of
from adamerge.experts.conversion import written
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.match_names import match
from adamerge.experts.own_class import of_base
from adamerge.experts.tied import tied_names
from adamerge.results.backbone import as_on_disk
from adamerge.results.checkpoint_files import METADATA, file_name, size_of, write_index
from adamerge.results.whose_files import Plan, has_own_folder
from adamerge.results.write_backbone import Backbone
from adamerge.results.write_beside import copy_module_weights, write_beside, write_config
from adamerge.storage.weights import Header, MappedFiles, Weights, headers_of
from adamerge.storage.write_safetensors import SafetensorsWriter, write_safetensors


def checkpoints(experts: Experts, folder: Path) -> dict[str, Path]:
    """Name the folder of an exported checkpoint that loads as each task's model."""
    apart = has_own_folder(experts)
    return {task: folder / task if task in apart else folder for task in experts.tasks}


def _write(
    path: Path, headers: Mapping[str, Header], tensors: Iterable[tuple[str, Tensor]], more: Mapping[str, Tensor]
) -> None:
    """Write one file of tensors that come one by one, and of some that are in memory."""
    with SafetensorsWriter(path, {**headers, **headers_of(more)}, METADATA) as writer:
        for name, tensor in chain(tensors, more.items()):
            writer.write(name, tensor)


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
    """Make the folder that loads as one task's model: the backbone, the head, and the files that accompany them."""
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
    one = backbone.bytes + size_of(headers_of(head)) <= backbone.most
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
        write_safetensors(folder / file_name(count, count), head, METADATA)
        names |= {file_name(count, count): headers_of(head)}
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
