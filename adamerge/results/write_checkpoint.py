"""Files of a merged checkpoint: backbone, index, heads, configuration and what lies beside them."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from adamerge.data.processor_files import exported_from, files_of, lacking
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.conversion import Written, written
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.match_names import match
from adamerge.experts.own_class import of_base
from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import as_on_disk, exact_parameters
from adamerge.results.surviving import SurvivingShare
from adamerge.storage.atomic_files import SafetensorsWriter, write_safetensors, write_text
from adamerge.storage.weights import Header
from adamerge.types import Coefficients

Files: TypeAlias = Mapping[str, Mapping[str, Header]]
"""Safetensors files by name, each with the headers of its tensors."""

_WEIGHTS = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_NOT_WRITTEN = ("torch_dtype", "quantization_config", "transformers_weights")
"""Keys of config.json: the old name of dtype, and what is true of other files than the merged ones."""

_NOT_COPIED = {"config.json", "adapter_config.json", "README.md", "training_args.bin", ".gitattributes"}


def checkpoints(experts: Experts, folder: Path) -> dict[str, Path]:
    """Name the folder of an exported checkpoint that loads as each task's model."""
    return {name: folder / name if expert.head else folder for name, expert in experts.tasks.items()}


def write_backbone(
    model: MergedModel, coefficients: Coefficients, folder: Path, shard_bytes: int, surviving: SurvivingShare
) -> Files:
    """Write the merged backbone in files of at most `shard_bytes`, one tensor in memory at a time."""
    units = written(next(iter(model.experts.tasks.values())).own_module, model.experts.backbone)
    shards = _divide([_headers_of(unit, model) for unit in units], shard_bytes)
    files = {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": {n: h for i in shard for n, h in i.items()}
        for number, shard in enumerate(shards, 1)
    }
    parameters = exact_parameters(model, coefficients, surviving, [name for unit in units for name in unit.names])
    tensors = (pair for unit in units for pair in unit.apply(dict(islice(parameters, len(unit.names)))).items())
    for file, headers in files.items():
        with SafetensorsWriter(folder / file, headers, {"format": "pt"}) as writer:
            for name, tensor in islice(tensors, len(headers)):
                writer.write(name, tensor)
    return files


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
        own = sum(shape.numel() * dtype.itemsize for shape, dtype in unit.values())
        size += own
        if size > shard_bytes and shards[-1]:
            shards.append([])
            size = own
        shards[-1].append(unit)
    return shards


def write_index(folder: Path, files: Files) -> None:
    """Write which file of a checkpoint holds which tensor."""
    headers = [header for file in files.values() for header in file.values()]
    index = {
        "metadata": {
            "total_parameters": sum(shape.numel() for shape, _ in headers),
            "total_size": sum(shape.numel() * dtype.itemsize for shape, dtype in headers),
        },
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def write_rest_of_base(experts: Experts, folder: Path, dtype: torch.dtype | None) -> Files:
    """Write what the base alone has, its own head for example, into a file that tasks do not link to."""
    assert experts.checkpoint is not None
    backbone = set(experts.backbone)
    module = next(iter(experts.tasks.values())).own_module
    rest = _on_disk(module, {name: experts.base[name] for name in experts.base.headers if name not in backbone})
    own, left = of_base(experts.checkpoint), experts.checkpoint.tensors
    names = {disk: name for name, disk in match(experts.checkpoint, own).names.items() if isinstance(disk, str)}
    rest |= _on_disk(own, {names[disk]: left[disk] for disk in experts.left_out if disk in names})
    rest |= {disk: left[disk] for disk in experts.left_out if disk not in names}
    return _write_tensors(folder / "model-base.safetensors", rest, dtype) if rest else {}


def write_root(experts: Experts, folder: Path, dtype: torch.dtype) -> None:
    """Write what lies beside the merged weights: the base's files, with the processor of all experts without a head."""
    assert experts.checkpoint is not None
    write_side_files(experts.checkpoint, folder, dtype)
    source, _ = exported_from(experts)
    if source is None or source is experts.checkpoint:
        return
    for file in files_of(folder).values():
        file.unlink()
    for name, file in files_of(source.folder).items():
        shutil.copy(file, folder / name)


def write_task(
    expert: Expert, base: Checkpoint, root: Path, shards: Files, dtype: torch.dtype | None, usual: torch.dtype
) -> None:
    """Make the folder that loads as one task's model: links to the backbone, the head, the configuration."""
    folder = root / expert.name
    folder.mkdir()
    for file in shards:
        _link(root / file, folder / file)
    head = _on_disk(expert.own_module, {name: expert.weights[name] for name in expert.whole_head})
    write_index(folder, {**shards, **_write_tensors(folder / "model-head.safetensors", head, dtype)})
    assert expert.checkpoint is not None
    write_side_files(expert.checkpoint, folder, usual)
    for name, file in lacking(folder, base.folder).items():  # an expert saved without its tokenizer takes the base's
        shutil.copy(file, folder / name)
    processors = files_of(root)
    for file in root.iterdir():
        beside = file.is_file() and not file.name.startswith("model") and file.name not in processors
        if beside and not (folder / file.name).exists():
            shutil.copy(file, folder / file.name)


def _on_disk(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a module's tensors as `save_pretrained` writes them, by name in the file."""
    units = written(module, list(tensors))
    return {n: t for unit in units for n, t in unit.apply({name: tensors[name] for name in unit.names}).items()}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> Files:
    """Write tensors that are in memory as one file, in the dtype that was asked for."""
    converted = as_on_disk(tensors, dtype)
    write_safetensors(path, converted, {"format": "pt"})
    return {path.name: {name: Header(tensor.shape, tensor.dtype) for name, tensor in converted.items()}}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def write_side_files(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write the configuration with the dtype of most numbers, and copy whatever else lies beside the weights."""
    config = checkpoint.settings()
    for key in _NOT_WRITTEN:
        config.pop(key, None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    for file in checkpoint.folder.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in _NOT_COPIED:
            shutil.copy(file, folder / file.name)
