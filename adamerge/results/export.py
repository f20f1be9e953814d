"""Merged checkpoint: ordinary Hugging Face files, complete or absent."""

from dataclasses import dataclass
from pathlib import Path

import torch

from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import backbone_dtypes, usual_dtype
from adamerge.results.read_back import compare_with_files
from adamerge.results.write_checkpoint import (
    checkpoints,
    write_backbone,
    write_index,
    write_rest_of_base,
    write_side_files,
    write_task,
)
from adamerge.storage.atomic_files import whole_folder
from adamerge.types import Coefficients, ConfigError

SHARD_BYTES = 5 * 10**9
"""Size at which a new file is begun, as in transformers."""


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
        shards = write_backbone(model, coefficients, part, dtypes, shard_bytes)
        write_index(part, {**shards, **write_rest_of_base(model.experts, part, dtype)})
        usual = usual_dtype(model.experts, dtypes)
        write_side_files(base, part, usual)
        for expert in model.experts.tasks.values():
            if expert.head:
                write_task(expert, part, shards, dtype, usual)
        compare_with_files(model, coefficients, part, dtypes)
        size = sum({f.stat().st_ino: f.stat().st_size for f in part.rglob("*") if f.is_file()}.values())
    return Exported(folder, checkpoints(model.experts, folder), size)
