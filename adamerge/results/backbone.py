"""What the models of all tasks have in common, merged in fp64, and the dtype of each of its tensors."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounding import check_fits, dtype_on_disk, round_to_nearest
from adamerge.merging.task_vectors import TaskVectors
from adamerge.results.surviving import SurvivingShare
from adamerge.types import Coefficients

LARGE = 2**23
"""Numbers that are merged at once: 64 MiB in fp64, several times while they are rounded."""


def exact_parameters(
    model: MergedModel,
    coefficients: Coefficients,
    surviving: SurvivingShare | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Merge the backbone's parameters and buffers, one at a time: combined in fp64 and rounded once.

    In memory are one parameter as it is written, and `LARGE` of its numbers in fp64.

    Args:
        model: Experts, task vectors and how merged parameters are rounded.
        coefficients: (G, K).
        surviving: Gets the exact and the rounded values of every parameter.
        names: Their order; by default that of the experts.

    Raises:
        ConfigError: A number is too large for the dtype on disk.
    """
    for name in model.experts.backbone if names is None else names:
        if name in model.vectors.shapes:
            yield name, _merged(model, coefficients, surviving, name)
        else:
            kept = model.experts.base[name]
            written = model.rounding(name, kept)
            check_fits(name, kept, written)
            yield name, written


def _merged(model: MergedModel, coefficients: Coefficients, surviving: SurvivingShare | None, name: str) -> Tensor:
    """Merge one parameter, some rows at a time if it is large: in fp64 it is four times what is written of it."""
    written: Tensor | None = None
    for rows in _blocks(model.vectors, name):
        whole = rows == slice(None)
        vectors = model.vectors if whole else model.vectors.part({name: rows})
        groups = (model.grouping if whole else model.grouping.part({name: rows})).rows[name]
        merged = vectors.combine_exactly(name, coefficients, groups)
        rounded = model.rounding(name, merged, (rows.start or 0) * merged[:1].numel() if merged.ndim else 0)
        check_fits(name, merged, rounded)
        if surviving:
            surviving.add(name, merged, rounded, vectors, groups)
        if whole:
            return rounded
        written = rounded.new_empty(model.vectors.shapes[name]) if written is None else written
        written[rows] = rounded
    assert written is not None
    return written


def _blocks(vectors: TaskVectors, name: str) -> list[slice]:
    """Divide a parameter into rows of at most `LARGE` numbers; one whose groups are no rows is one block."""
    shape = vectors.shapes[name]
    if len(shape) < 2 or shape.numel() <= LARGE or vectors.per == "component":
        return [slice(None)]
    step = max(1, LARGE * shape[0] // shape.numel())
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def usual_dtype(experts: Experts, dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    """Find the dtype of most numbers, in which transformers will load all of them."""
    numbers: Counter[torch.dtype] = Counter()
    for name, dtype in dtypes.items():
        numbers[dtype] += experts.base.shape(name).numel()
    return numbers.most_common(1)[0][0]


def as_on_disk(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Round what is not merged, heads for example, to the dtype that was asked for, if one was.

    Raises:
        ConfigError: A number is too large for it.
    """
    written = {name: round_to_nearest(tensor, dtype_on_disk(tensor.dtype, dtype)) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        check_fits(name, tensor, written[name])
    return written
