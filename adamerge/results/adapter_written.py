"""Models of an exported adapter as a reader of its files gets them, to measure what was exported."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from adamerge.experts.adapter import open_adapter
from adamerge.experts.experts import Expert
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounding import Rounding
from adamerge.storage.weights import Joined, Weights
from adamerge.types import Coefficients


def written_adapter(model: MergedModel, places: Mapping[str, Path]) -> tuple[MergedModel, Coefficients]:
    """Build the models of all tasks from the base and an exported adapter; its factors stay factors.

    Args:
        model: What was exported.
        places: Folder of each task's adapter.

    Returns:
        A model whose only task vector is the adapter, and the coefficients (1, 1) that it is run with.
    """
    experts, shapes = model.experts, tuple(model.vectors.shapes)
    opened = {task: _open(model, place) for task, place in places.items()}
    tasks = {name: _with_head(one, opened[name]) for name, one in experts.tasks.items()}
    adapter = next(iter(opened.values()))
    vectors = model.vectors
    own = Factored({"written": adapter}, shapes, experts.base, experts.base, vectors.dtype, vectors.device)
    written = MergedModel(replace(experts, tasks=tasks), own, task_wise(shapes), Rounding())
    return written, torch.ones(1, 1)


def _open(model: MergedModel, place: Path) -> Weights:
    assert model.experts.checkpoint is not None
    return open_adapter(str(place), place, model.experts.checkpoint).tensors


def _with_head(expert: Expert, adapter: Weights) -> Expert:
    if not expert.whole_head:
        return expert
    return replace(expert, weights=Joined(adapter, expert.weights))
