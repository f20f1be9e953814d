"""Models as a reader of the written files gets them, to measure what was exported rather than what was meant."""

from dataclasses import replace
from pathlib import Path

import torch

from adamerge.experts.experts import Expert
from adamerge.merging.grouping import task_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel
from adamerge.results.write_checkpoint import checkpoints, names_on_disk
from adamerge.storage.weights import Joined, MappedFiles, Renamed, Weights
from adamerge.types import Coefficients


def written_model(model: MergedModel, folder: Path) -> tuple[MergedModel, Coefficients]:
    """Build the models of all tasks from the files of an export; tensors are mapped, not loaded.

    Args:
        model: What was exported.
        folder: Where it was written.

    Returns:
        A model whose backbone and heads are the written ones, and the coefficients (1, 1) that it is run with.
    """
    experts, shapes = model.experts, tuple(model.vectors.shapes)
    backbone = _read(folder, names_on_disk(experts))
    places = checkpoints(experts, folder)
    tasks = {name: _with_head(one, places[name]) for name, one in experts.tasks.items()}
    written = replace(experts, base=Joined(backbone, experts.base), tasks=tasks)
    vectors = Mapped({"written": backbone}, shapes, backbone, backbone, model.vectors.dtype, model.vectors.device)
    return MergedModel(written, vectors, task_wise(shapes)), torch.zeros(1, 1)


def _with_head(expert: Expert, folder: Path) -> Expert:
    names = {name: expert.disk.get(name, name) for name in expert.whole_head}
    return replace(expert, weights=Joined(_read(folder, names), expert.weights)) if names else expert


def _read(folder: Path, names: dict[str, str]) -> Weights:
    return Renamed(MappedFiles(sorted(folder.glob("*.safetensors"))), names)
