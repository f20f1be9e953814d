"""Models as a reader of the written files gets them, to measure what was exported rather than what was meant."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from adamerge.experts.conversion import Converted
from adamerge.experts.experts import Expert
from adamerge.experts.match_names import match_tensors
from adamerge.merging.grouping import task_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel
from adamerge.results.adapter_written import written_adapter
from adamerge.results.write_checkpoint import checkpoints
from adamerge.storage.weights import Joined, MappedFiles, Weights
from adamerge.types import Coefficients


def written_model(model: MergedModel, folder: Path) -> tuple[MergedModel, Coefficients]:
    """Build the models of all tasks from the files of an export; tensors are mapped, not loaded.

    Args:
        model: What was exported.
        folder: Where it was written.

    Returns:
        A model whose backbone and heads are the written ones, and the coefficients (1, 1) that it is run with.
    """
    if (next(iter(checkpoints(model.experts, folder).values())) / "adapter_config.json").exists():
        return written_adapter(model, checkpoints(model.experts, folder))
    experts, shapes = model.experts, tuple(model.vectors.shapes)
    backbone = _read(folder, next(iter(experts.tasks.values())).own_module, experts.backbone)
    places = checkpoints(experts, folder)
    tasks = {name: _with_head(one, places[name]) for name, one in experts.tasks.items()}
    written = replace(experts, base=Joined(backbone, experts.base), tasks=tasks)
    vectors = Mapped({"written": backbone}, shapes, backbone, backbone, model.vectors.dtype, model.vectors.device)
    return MergedModel(written, vectors, task_wise(shapes), blocks=model.blocks), torch.zeros(1, 1)


def _with_head(expert: Expert, folder: Path) -> Expert:
    own = _read(folder, expert.own_module, expert.whole_head) if expert.whole_head else None
    return replace(expert, weights=Joined(own, expert.weights)) if own is not None else expert


def _read(folder: Path, module: nn.Module, names: Sequence[str]) -> Weights:
    """Read some of a module's tensors from the files of an export."""
    tensors = MappedFiles(sorted(folder.glob("*.safetensors")))
    found = match_tensors(str(folder), tensors, module).names
    return Converted(tensors, {name: found[name] for name in names})
