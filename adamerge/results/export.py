"""Export of the merged checkpoint: ordinary Hugging Face files, complete or absent."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.match_names import tied_names
from adamerge.experts.progress_bars import without_bars
from adamerge.merging.execution import Merged, execution_of
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.atomic_files import SafetensorsWriter, whole_folder, write_safetensors, write_text
from adamerge.storage.weights import Header
from adamerge.types import Coefficients, ConfigError

SHARD_BYTES = 5 * 10**9
"""Maximum size of one file, as in transformers."""

_WEIGHTS = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_NOT_COPIED = {"config.json", "README.md", "training_args.bin", ".gitattributes"}


@dataclass(frozen=True)
class Exported:
    """The written files.

    Attributes:
        folder: The merged checkpoint; it loads as the base's own class.
        checkpoints: Folder of each task's model: the folder itself, or a subfolder if the task has a head.
        bytes: Size on disk; a file that is linked into several folders counts once.
    """

    folder: Path
    checkpoints: dict[str, Path]
    bytes: int


def export(
    model: MergedModel,
    coefficients: Coefficients,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Merge in fp64, one parameter at a time, write the checkpoint, read it back and compare.

    merged[p] = centre[p] + Σₖ cₖ[group of p] · (expertₖ[p] − centre[p]).

    `folder` contains the base with its shared parameters merged; the base's own head is unchanged. A task with its own
    head gets a subfolder with hard links to the backbone's files (copies if links fail) and a small file for the head.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        folder: Output folder; must not exist.
        dtype: Dtype on disk; by default, per tensor, one that represents base and experts exactly.
        shard_bytes: Maximum size of one file.

    Returns:
        The written files.

    Raises:
        ConfigError: The folder exists, or base and experts are not checkpoints on disk.
        RuntimeError: The file read back differs from the merge; the folder is removed.
    """
    base = model.experts.checkpoint
    if base is None:
        raise ConfigError("export: expected checkpoints on disk, found modules in memory. Use export_modules instead.")
    if folder.exists():
        raise ConfigError(f"{folder}: exists already; choose another folder for the merged checkpoint.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as part:
        dtypes = backbone_dtypes(model.experts, dtype)
        shards = _write_backbone(model, coefficients, part, dtypes, shard_bytes)
        _write_index(part, shards, _write_rest_of_base(model.experts, part, dtype))
        _write_side_files(base, part, _usual(model.experts, dtypes))
        for expert in model.experts.tasks.values():
            if expert.head:
                _write_task(expert, part, shards, dtype, _usual(model.experts, dtypes))
        _compare(model, coefficients, part, dtypes)
        size = sum({f.stat().st_ino: f.stat().st_size for f in part.rglob("*") if f.is_file()}.values())
    return Exported(folder, checkpoints(model.experts, folder), size)


def checkpoints(experts: Experts, folder: Path) -> dict[str, Path]:
    """Return the folder of each task's model in an exported checkpoint."""
    return {name: folder / name if expert.head else folder for name, expert in experts.tasks.items()}


def exact_parameters(
    model: MergedModel, coefficients: Coefficients, dtypes: Mapping[str, torch.dtype]
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every parameter and buffer of the merged backbone, combined in fp64 and rounded once."""
    for name in _backbone(model.experts):
        if name in model.vectors.shapes:
            merged = model.vectors.combine_exactly(name, coefficients, model.grouping.rows[name])
        else:
            merged = model.experts.base[name]
        yield name, merged.to(dtypes[name])


def _backbone(experts: Experts) -> list[str]:
    """List the tensors that all tasks share: merged parameters, kept parameters, and the base's buffers."""
    expert = next(iter(experts.tasks.values()))
    stored = [name for name, _ in expert.own_module.named_buffers() if name in experts.base]
    return [*experts.shared, *experts.kept, *(name for name in stored if name not in expert.head_buffers)]


def _write_backbone(
    model: MergedModel, coefficients: Coefficients, folder: Path, dtypes: Mapping[str, torch.dtype], shard_bytes: int
) -> dict[str, dict[str, Header]]:
    """Write the backbone's files; return the headers of each file."""
    disk = _names_on_disk(model.experts)
    headers = {name: Header(model.experts.base.shape(name), dtypes[name]) for name in _backbone(model.experts)}
    shards = _divide(headers, shard_bytes)
    parameters = exact_parameters(model, coefficients, dtypes)
    files: dict[str, dict[str, Header]] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files[file] = {disk[name]: headers[name] for name in names}
        with SafetensorsWriter(folder / file, files[file], {"format": "pt"}) as writer:
            for _ in names:
                name, tensor = next(parameters)
                writer.write(disk[name], tensor)
    return files


def _names_on_disk(experts: Experts) -> dict[str, str]:
    """Map each backbone tensor to its name in the first expert's files, which the expert's class can load."""
    disk = next(iter(experts.tasks.values())).disk
    return {name: disk.get(name, name) for name in _backbone(experts)}


def _divide(headers: Mapping[str, Header], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, (shape, dtype) in headers.items():
        size += shape.numel() * dtype.itemsize
        if size > shard_bytes and shards[-1]:
            shards.append([])
            size = shape.numel() * dtype.itemsize
        shards[-1].append(name)
    return shards


def _write_index(
    folder: Path, shards: Mapping[str, Mapping[str, Header]], more: Mapping[str, Mapping[str, Header]]
) -> None:
    files = {**shards, **more}
    headers = [header for file in files.values() for header in file.values()]
    index = {
        "metadata": {
            "total_parameters": sum(shape.numel() for shape, _ in headers),
            "total_size": sum(shape.numel() * dtype.itemsize for shape, dtype in headers),
        },
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _write_rest_of_base(experts: Experts, folder: Path, dtype: torch.dtype | None) -> dict[str, dict[str, Header]]:
    """Write tensors of the base alone, for example its head, to a file that tasks do not link; return its headers."""
    assert experts.checkpoint is not None
    backbone = set(_backbone(experts))
    rest = {name: experts.base[name] for name in experts.base.headers if name not in backbone}
    rest |= {name: experts.checkpoint.tensors[name] for name in experts.left_out}
    if not rest:
        return {}
    rest = {name: tensor.to(dtype_on_disk(tensor.dtype, dtype)) for name, tensor in rest.items()}
    write_safetensors(folder / "model-base.safetensors", rest, {"format": "pt"})
    return {"model-base.safetensors": {name: Header(tensor.shape, tensor.dtype) for name, tensor in rest.items()}}


def _write_task(
    expert: Expert,
    root: Path,
    shards: Mapping[str, Mapping[str, Header]],
    dtype: torch.dtype | None,
    usual: torch.dtype,
) -> None:
    """Write a folder that loads as one task's model: links to the backbone, its head, its configuration."""
    folder = root / expert.name
    folder.mkdir()
    for file in shards:
        _link(root / file, folder / file)
    head = {expert.disk.get(name, name): expert.weights[name] for name in expert.whole_head}
    head = {name: tensor.to(dtype_on_disk(tensor.dtype, dtype)) for name, tensor in head.items()}
    write_safetensors(folder / "model-head.safetensors", head, {"format": "pt"})
    _write_index(folder, shards, {"model-head.safetensors": {n: Header(t.shape, t.dtype) for n, t in head.items()}})
    assert expert.checkpoint is not None
    _write_side_files(expert.checkpoint, folder, usual)
    for file in root.iterdir():  # an expert saved without a tokenizer gets the base's
        if file.is_file() and not file.name.startswith("model") and not (folder / file.name).exists():
            shutil.copy(file, folder / file.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _write_side_files(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write the configuration with the most frequent dtype, and copy the other files beside the weights."""
    config = json.loads((checkpoint.folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    for file in checkpoint.folder.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in _NOT_COPIED:
            shutil.copy(file, folder / file.name)


def dtype_on_disk(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """Return the requested dtype, or the tensor's own if none is requested or it is an integer."""
    return dtype if dtype is not None and own.is_floating_point else own


def backbone_dtypes(experts: Experts, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Choose each backbone tensor's dtype: as requested, or the smallest that represents base and experts exactly."""
    dtypes: dict[str, torch.dtype] = {}
    for name in _backbone(experts):
        own = experts.base.headers[name].dtype
        for weights in experts.weights.values():
            if name in experts.shared:
                own = torch.promote_types(own, weights.headers[name].dtype)
        dtypes[name] = dtype_on_disk(own, dtype)
    return dtypes


def _usual(experts: Experts, dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    """Find the most frequent dtype, in which transformers loads all numbers."""
    numbers: Counter[torch.dtype] = Counter()
    for name, dtype in dtypes.items():
        numbers[dtype] += experts.base.shape(name).numel()
    return numbers.most_common(1)[0][0]


def _compare(model: MergedModel, coefficients: Coefficients, folder: Path, dtypes: Mapping[str, torch.dtype]) -> None:
    """Load every checkpoint with transformers, and compare each task's parameters with the merge in memory."""
    places = checkpoints(model.experts, folder)
    if folder not in places.values():
        assert model.experts.checkpoint is not None
        _load(model.experts.checkpoint.architecture, folder, model.experts.checkpoint.trust_remote_code)
    usual = _usual(model.experts, dtypes)
    with execution_of(model).at(coefficients) as merged:
        for task, place in places.items():
            found = _read_back(model.experts.tasks[task], place)
            for name, expected in _expected(model, task, merged):
                if not _close(found[name], expected, dtypes.get(name, usual)):
                    raise RuntimeError(f"{place}: {name} differs from the merge when read back. Please report this.")


def _expected(model: MergedModel, task: str, merged: Merged) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer of a task's exported checkpoint."""
    expert = model.experts.tasks[task]
    for name in _backbone(model.experts):
        yield name, merged.parameter(name) if name in model.vectors.shapes else model.experts.base[name]
    for name in expert.whole_head:
        yield name, expert.weights[name]


def _read_back(expert: Expert, place: Path) -> dict[str, Tensor]:
    """Load parameters and buffers of a task's checkpoint under all their names, with its own class."""
    assert expert.checkpoint is not None
    name = type(expert.own_module).__name__  # a zero-shot task loads as the base's own class
    loaded = _load(name, place, expert.checkpoint.trust_remote_code)
    found = {**dict(loaded.named_parameters(remove_duplicate=False)), **dict(loaded.named_buffers())}
    return found | {alias: found[aliases[0]] for aliases in tied_names(loaded) for alias in aliases}


def _load(architecture: str, place: Path, trust_remote_code: bool) -> nn.Module:
    cls = getattr(transformers, architecture, transformers.AutoModel)
    trust = {"trust_remote_code": True} if trust_remote_code else {}
    with without_bars():
        loaded, info = cls.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **trust)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise RuntimeError(f"{place}: {sorted(info['missing_keys'])} are missing when read back. Please report this.")
    return loaded


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Compare up to fp32 arithmetic and one rounding to the dtype on disk; integers must be equal."""
    if not expected.is_floating_point():
        return torch.equal(found.cpu(), expected.cpu())
    found, expected = found.detach().float(), expected.detach().cpu().float()
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    return bool(((found - expected).abs() <= rounding * (expected.abs() + expected.abs().amax())).all())
