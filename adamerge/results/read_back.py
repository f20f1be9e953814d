"""Read an exported checkpoint back as a user would, and compare it with what was merged."""

from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from adamerge.experts.experts import Expert
from adamerge.experts.match_names import tied_names
from adamerge.experts.progress_bars import without_bars
from adamerge.merging.execution import Merged, execution_of
from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import usual_dtype
from adamerge.results.write_checkpoint import checkpoints
from adamerge.types import Coefficients


def compare_with_files(model: MergedModel, coefficients: Coefficients, folder: Path) -> None:
    """Load every checkpoint as a user would, and compare each task's parameters with those that it is run with.

    Raises:
        RuntimeError: A parameter is missing, or differs by more than rounding.
    """
    places = checkpoints(model.experts, folder)
    if folder not in places.values():
        assert model.experts.checkpoint is not None
        _load(model.experts.checkpoint.architecture, folder, model.experts.checkpoint.trust_remote_code)
    dtypes = model.rounding.dtypes
    usual = usual_dtype(model.experts, dtypes)
    with execution_of(model).at(coefficients) as merged:
        for task, place in places.items():
            found = _read_back(model.experts.tasks[task], place)
            for name, expected in _expected(model, task, merged):
                if not _close(found[name], expected, dtypes.get(name, usual)):
                    raise RuntimeError(f"{place}: {name} differs from what was merged when read back; please report.")


def _expected(model: MergedModel, task: str, merged: Merged) -> Iterator[tuple[str, Tensor]]:
    """List every parameter and buffer that a task's exported checkpoint holds."""
    expert = model.experts.tasks[task]
    for name in model.experts.backbone:
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
    with without_bars():
        loaded, info = cls.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **trust)
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
