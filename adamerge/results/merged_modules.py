"""Merged modules in memory and their export, by `save_pretrained` or to a safetensors file."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adamerge.experts.experts import Expert
from adamerge.experts.match_names import tied_names
from adamerge.experts.progress_bars import without_bars
from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import as_on_disk, exact_parameters
from adamerge.results.export import Exported, check_free
from adamerge.results.surviving import SurvivingShare
from adamerge.results.write_checkpoint import checkpoints
from adamerge.storage.atomic_files import whole_folder
from adamerge.storage.write_safetensors import write_safetensors
from adamerge.types import Coefficients, ConfigError

STATE = "model.safetensors"
"""File with the state dict of a plain module."""


def merged_module(
    model: MergedModel, coefficients: Coefficients, task: str, *, dtype: torch.dtype | None = None
) -> nn.Module:
    """Build the module of one task with merged weights, in eval mode.

    merged[p] = centre[p] + Σₖ cₖ[group of p] · (expertₖ[p] − centre[p]), combined in fp64 and rounded once; the head
    is the expert's own. The result shares no memory with the merged modules.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        task: The task of the module and head.
        dtype: Dtype of the parameters; by default that of the model's rounding.

    Returns:
        The module.

    Raises:
        ConfigError: There is no such task.
    """
    if not isinstance(task, str) or task not in model.experts.tasks:
        raise ConfigError(f"expected the name of a task ({', '.join(model.experts.tasks)}), found {task!r}.")
    model = model.written_in(dtype)
    backbone = dict(exact_parameters(model, coefficients))
    return _filled(model.experts.tasks[task], backbone, model.rounding.heads)


def export_modules(
    model: MergedModel, coefficients: Coefficients, folder: Path, *, dtype: torch.dtype | None = None
) -> Exported:
    """Write merges of modules in memory: the whole folder, or nothing.

    A transformers model is saved by its own `save_pretrained`, so `from_pretrained` loads it; the state dict of any
    other module is written as model.safetensors. Each task with its own head gets a subfolder.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        folder: Output folder; must not exist.
        dtype: Dtype on disk; by default that of the model's rounding.

    Returns:
        The written files.

    Raises:
        ConfigError: The folder exists.
        RuntimeError: The file read back differs from the merge; the folder is removed.
    """
    check_free(folder)
    model = model.written_in(dtype)
    surviving = SurvivingShare(model, coefficients)
    backbone = dict(exact_parameters(model, coefficients, surviving))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as part:
        for task, place in checkpoints(model.experts, part).items():
            place.mkdir(exist_ok=True)
            if not any(file.is_file() for file in place.iterdir()):  # tasks without a head share one model
                _save(_filled(model.experts.tasks[task], backbone, model.rounding.heads), place)
        size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    return Exported(folder, checkpoints(model.experts, folder), size, surviving.found())


def _filled(expert: Expert, backbone: Mapping[str, Tensor], dtype: torch.dtype | None) -> nn.Module:
    """Copy an expert's module with the merged backbone and the expert's head."""
    module = copy.deepcopy(expert.module)
    own = module.get_submodule(expert.prefix.removesuffix("."))
    head = {name: expert.weights[name] for name in expert.whole_head}
    state = {**backbone, **as_on_disk(head, dtype)}
    wanted = {*own.state_dict(), *(name for name, _ in own.named_parameters(remove_duplicate=False))}
    first = {alias: names[0] for names in tied_names(own) for alias in names}
    tensors = {first.get(name, name) for name in wanted}
    new = {name: state[name].clone() for name in tensors if name in state}
    own.load_state_dict(
        {name: new[first.get(name, name)] for name in wanted if first.get(name, name) in new}, strict=False, assign=True
    )
    _tie(own, first)
    return module.cpu()


def _tie(module: nn.Module, first: Mapping[str, str]) -> None:
    """Tie parameters again that were tied before."""
    for alias, name in first.items():
        if alias != name:
            place, _, word = alias.rpartition(".")
            module.get_submodule(place).register_parameter(word, module.get_parameter(name))


def _save(module: nn.Module, folder: Path) -> None:
    """Write a module to a folder, read it back and compare.

    Raises:
        RuntimeError: The file read back differs.
    """
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    if not isinstance(module, PreTrainedModel):
        write_safetensors(folder / STATE, state, {"format": "pt"})
        return
    with without_bars():
        module.save_pretrained(folder)
        found = type(module).from_pretrained(folder, dtype="auto").state_dict()
    bad = [name for name, tensor in state.items() if name not in found or not _same(found[name], tensor)]
    if bad:
        raise RuntimeError(f"{folder}: {bad[0]} differs from the merge when it is read back. Please report this.")


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found, expected)
