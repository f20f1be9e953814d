"""Read an exported checkpoint back as a user would, one tensor at a time, and compare it with what was merged."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adamerge.experts.checkpoint import open_checkpoint, skeleton
from adamerge.experts.conversion import Converted
from adamerge.experts.experts import Expert
from adamerge.experts.made_by_class import reported
from adamerge.experts.match_names import match
from adamerge.experts.own_class import of_base
from adamerge.experts.tied import tied_names, untie
from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import usual_dtype
from adamerge.results.write_checkpoint import checkpoints
from adamerge.storage.weights import Renamed, Weights
from adamerge.types import Coefficients, IncompatibleExpertsError

_PIECE = 2**20
"""Numbers that are compared at a time."""

_LARGE = 2**23
"""Numbers of a matrix that are merged at a time to be compared: 32 MiB in fp32, and twice while it is rounded."""

Part: TypeAlias = tuple[slice | None, Tensor]
"""Some rows of a tensor, and their values; None is all of it."""


def compare_with_files(model: MergedModel, coefficients: Coefficients, folder: Path) -> None:
    """Open every checkpoint as its class would, and compare each tensor in it with the one that its task is run with.

    What is in memory is one tensor of the merge, of a matrix some rows; files are mapped. Where transformers computes a
    parameter from several tensors of the file, these are in memory too.

    Raises:
        RuntimeError: A parameter is missing, or differs by more than rounding.
    """
    places = checkpoints(model.experts, folder)
    if folder not in places.values():
        assert model.experts.checkpoint is not None
        base = model.experts.checkpoint
        _open(type(of_base(base)).__name__, folder, base.trust_remote_code, without=model.experts.lacking)
    opened = {place: _open_task(model.experts.tasks[task], place) for task, place in places.items()}
    dtypes = model.rounding.dtypes
    usual = usual_dtype(model.experts, dtypes)
    for among, name, expected in _expected(model, coefficients, places):
        if absent := [place for place in among if name not in opened[place]]:
            raise RuntimeError(f"{absent[0]}: transformers does not find {name}. Please report this.")
        found = {place: opened[place][name] for place in among}
        for rows, part in expected:
            for place, own in found.items():
                if not _close(own if rows is None else own[rows], part, dtypes.get(name, usual)):
                    raise RuntimeError(f"{place}: {name} differs from what was merged when read back; please report.")


def _expected(
    model: MergedModel, coefficients: Coefficients, places: dict[str, Path]
) -> Iterator[tuple[Iterable[Path], str, Iterable[Part]]]:
    """Yield every parameter and buffer that the exported checkpoints hold, in parts, with the folders that hold it."""
    experts = model.experts
    for name in experts.backbone:
        kept = name not in model.vectors.shapes
        parts = [(None, experts.base[name])] if kept else _merged(model, coefficients, name)
        yield dict.fromkeys(places.values()), name, parts
    for task, expert in experts.tasks.items():
        for name in expert.whole_head:
            yield (places[task],), name, [(None, expert.weights[name])]


def _merged(model: MergedModel, coefficients: Coefficients, name: str) -> Iterator[Part]:
    """Merge one parameter as learning does, which is not how it was merged to be written; large matrices row by row."""
    shape = model.vectors.shapes[name]
    if len(shape) != 2 or shape.numel() <= _LARGE or model.vectors.per == "component":
        merged = model.vectors.combine(coefficients, model.grouping, [name])[name]
        yield None, model.rounding.as_written(name, merged)
        return
    step = max(1, _LARGE // shape[1])
    for start in range(0, shape[0], step):
        rows = slice(start, min(start + step, shape[0]))
        merged = model.vectors.part({name: rows}).combine(coefficients, model.grouping.part({name: rows}), [name])[name]
        yield rows, model.rounding.as_written(name, merged, start * shape[1])


def _open_task(expert: Expert, place: Path) -> Weights:
    """Open a task's checkpoint as its own class; a zero-shot task's as the base's."""
    assert expert.checkpoint is not None
    return _open(type(expert.own_module).__name__, place, expert.checkpoint.trust_remote_code)


def _open(architecture: str, place: Path, trust_remote_code: bool, without: Sequence[str] = ()) -> Weights:
    """Find the tensors of a checkpoint's class, under all their names, as transformers does; none is read.

    Args:
        architecture: Name of the class.
        place: Folder of the checkpoint.
        trust_remote_code: Whether Python code beside the weights may run.
        without: Parameters that the checkpoint lacks as the base did.

    Raises:
        RuntimeError: A parameter is missing, or has another shape than in the class.
    """
    try:
        checkpoint = open_checkpoint(str(place), trust_remote_code=trust_remote_code)
        module = skeleton(checkpoint.config, architecture, trust_remote_code=trust_remote_code)
        if apart := match(checkpoint, module).apart:  # transformers ties nothing that differs in the file
            untie(module, apart)
        found = match(checkpoint, module)
    except (ValueError, IncompatibleExpertsError) as error:
        raise RuntimeError(f"{place}: the exported checkpoint cannot be opened: {error}") from error
    tensors = Converted(checkpoint.tensors, found.names)
    missing = _reported(module, found.missing) - set(without)
    wanted = module.state_dict()
    mismatched = {name for name, (shape, _) in tensors.headers.items() if shape != wanted[name].shape}
    if missing or mismatched:
        raise RuntimeError(f"{place}: transformers does not find {sorted(missing | mismatched)}. Please report this.")
    return Renamed(tensors, _all_names(module, tensors))


def _reported(module: nn.Module, missing: Sequence[str]) -> set[str]:
    """Return those of the missing names that transformers would report."""
    return reported(module, missing) if isinstance(module, PreTrainedModel) else set(missing)


def _all_names(module: nn.Module, tensors: Weights) -> dict[str, str]:
    """Map all names of each tensor, those of tied ones too, to the one under which it was found."""
    found = {name: name for name in tensors.headers}
    return found | {a: aliases[0] for aliases in tied_names(module) if aliases[0] in found for a in aliases}


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Return whether two are equal but for fp32 combining and one rounding to the dtype on disk; integers are equal."""
    if found.shape != expected.shape:
        return False
    found, expected = found.detach().reshape(-1), expected.detach().cpu().reshape(-1)
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    largest = max((piece.abs().amax().float() for piece in expected.split(_PIECE) if len(piece)), default=0.0)
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    pairs = zip(found.split(_PIECE), expected.split(_PIECE), strict=True)
    return all(_near(one.float(), other.float(), rounding, largest) for one, other in pairs)


def _near(found: Tensor, expected: Tensor, rounding: float, largest: Tensor | float) -> bool:
    return bool(((found - expected).abs() <= rounding * (expected.abs() + largest)).all())
