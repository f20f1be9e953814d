"""Merged checkpoint: ordinary Hugging Face files, complete or absent."""

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
from adamerge.merging.execution import Merged, execution_of
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.atomic_files import SafetensorsWriter, whole_folder, write_safetensors, write_text
from adamerge.storage.weights import Header
from adamerge.types import Coefficients, ConfigError

SHARD_BYTES = 5 * 10**9
"""Size at which a new file is begun, as in transformers."""

_WEIGHTS = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_NOT_COPIED = {"config.json", "README.md", "training_args.bin", ".gitattributes"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: The merged checkpoint; loads as the base's own class.
        checkpoints: What loads as each task's model: the folder itself, or a folder in it where the task has a head.
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

    `folder` is the base with its shared parameters merged; a head of the base's own stays what it was. A task with a
    head of its own gets a folder in it, with the backbone's files hard-linked (copied where links fail) beside a small
    file for the head.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        folder: Where to; must not exist.
        dtype: Of the numbers on disk; by default, tensor by tensor, one that holds base and experts exactly.
        shard_bytes: Size of one file at most.

    Raises:
        ConfigError: The folder exists, or base and experts are not checkpoints on disk.
        RuntimeError: What was read back is not what was merged; nothing is left in the folder.
    """
    base = model.experts.checkpoint
    if base is None:
        raise ConfigError("export: expected checkpoints on disk, found modules in memory. Use export_modules instead.")
    if folder.exists():
        raise ConfigError(f"{folder}: exists already; choose another place for the merged checkpoint.")
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
    """Which folder of an exported checkpoint loads as each task's model."""
    return {name: folder / name if expert.head else folder for name, expert in experts.tasks.items()}


def exact_parameters(
    model: MergedModel, coefficients: Coefficients, dtypes: Mapping[str, torch.dtype]
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of the merged backbone, one at a time, combined in fp64 and rounded once."""
    for name in _backbone(model.experts):
        if name in model.vectors.shapes:
            merged = model.vectors.combine_exactly(name, coefficients, model.grouping.rows[name])
        else:
            merged = model.experts.base[name]
        yield name, merged.to(dtypes[name])


def _backbone(experts: Experts) -> list[str]:
    """Names of what all tasks have in common: merged parameters, the base's own, and the base's buffers."""
    expert = next(iter(experts.tasks.values()))
    stored = [name for name, _ in expert.own_module.named_buffers() if name in experts.base]
    return [*experts.shared, *experts.kept, *(name for name in stored if name not in expert.head_buffers)]


def _write_backbone(
    model: MergedModel, coefficients: Coefficients, folder: Path, dtypes: Mapping[str, torch.dtype], shard_bytes: int
) -> dict[str, dict[str, Header]]:
    """Write the backbone's files; returns the headers of each file."""
    disk = _names_on_disk(model.experts)
    headers: dict[str, Header] = {}
    for name in _backbone(model.experts):
        headers[name] = Header(model.experts.base.shape(name), dtypes[name])
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
    """Each backbone tensor's name in the first expert's files: what its own class is known to load."""
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
    """What the base alone has, its own head for example, in a file that tasks do not link to; returns its headers."""
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
    """A folder that loads as one task's model: links to the backbone, its head, its configuration."""
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
    for file in root.iterdir():  # an expert saved without its tokenizer takes the base's
        if file.is_file() and not file.name.startswith("model") and not (folder / file.name).exists():
            shutil.copy(file, folder / file.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _write_side_files(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """The configuration with the dtype of most numbers, and whatever else lies beside the weights."""
    config = json.loads((checkpoint.folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    for file in checkpoint.folder.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in _NOT_COPIED:
            shutil.copy(file, folder / file.name)


def dtype_on_disk(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype that was asked for, if one was; integers stay what they are."""
    return dtype if dtype is not None and own.is_floating_point else own


def backbone_dtypes(experts: Experts, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Of each backbone tensor: as asked for, else the smallest that holds the base's and the experts' exactly."""
    dtypes: dict[str, torch.dtype] = {}
    for name in _backbone(experts):
        own = experts.base.headers[name].dtype
        for weights in experts.weights.values():
            if name in experts.shared:
                own = torch.promote_types(own, weights.headers[name].dtype)
        dtypes[name] = dtype_on_disk(own, dtype)
    return dtypes


def _usual(experts: Experts, dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    """The dtype of most numbers, which transformers will load all of them in."""
    numbers: Counter[torch.dtype] = Counter()
    for name, dtype in dtypes.items():
        numbers[dtype] += experts.base.shape(name).numel()
    return numbers.most_common(1)[0][0]


def _compare(model: MergedModel, coefficients: Coefficients, folder: Path, dtypes: Mapping[str, torch.dtype]) -> None:
    """Load every checkpoint as a user would, and compare each task's parameters with those that it is run with."""
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
                    raise RuntimeError(f"{place}: {name} differs from what was merged when read back; please report.")


def _expected(model: MergedModel, task: str, merged: Merged) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer that a task's exported checkpoint holds."""
    expert = model.experts.tasks[task]
    for name in _backbone(model.experts):
        yield name, merged.parameter(name) if name in model.vectors.shapes else model.experts.base[name]
    for name in expert.whole_head:
        yield name, expert.weights[name]


def _read_back(expert: Expert, place: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a task's checkpoint under all their names, as its own class loads them."""
    assert expert.checkpoint is not None
    name = type(expert.own_module).__name__  # a zero-shot task loads as the base's own class
    loaded = _load(name, place, expert.checkpoint.trust_remote_code)
    found = {**dict(loaded.named_parameters(remove_duplicate=False)), **dict(loaded.named_buffers())}
    return found | {alias: found[aliases[0]] for aliases in tied_names(loaded) for alias in aliases}


def _load(architecture: str, place: Path, trust_remote_code: bool) -> nn.Module:
    cls = getattr(transformers, architecture, transformers.AutoModel)
    trust = {"trust_remote_code": True} if trust_remote_code else {}
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # one for each task would bury what matters
    try:
        loaded, info = cls.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **trust)
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    if info["missing_keys"] or info["mismatched_keys"]:
        raise RuntimeError(f"{place}: transformers does not find {sorted(info['missing_keys'])}. Please report this.")
    return loaded


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Equal but for fp32 combining and one rounding to the dtype on disk; integers are equal."""
    if not expected.is_floating_point():
        return torch.equal(found.cpu(), expected.cpu())
    found, expected = found.detach().float(), expected.detach().cpu().float()
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    return bool(((found - expected).abs() <= rounding * (expected.abs() + expected.abs().amax())).all())
