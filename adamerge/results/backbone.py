"""What the models of all tasks have in common, merged in fp64, and the dtype of each of its tensors."""

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.merging.matrices import as_matrix
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.read_ahead import ReadAhead
from adamerge.merging.rounding import check_fits, dtype_on_disk, round_to_nearest
from adamerge.results.surviving import SurvivingShare
from adamerge.storage.buffers import Buffers
from adamerge.storage.memory import give_back
from adamerge.types import Coefficients


def exact_parameters(
    model: MergedModel, coefficients: Coefficients, surviving: SurvivingShare | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Merge the backbone's parameters and buffers, one at a time, as `exact_parameter` does."""
    order, ahead = list(model.experts.backbone), ReadAhead(model.vectors)
    for number, name in enumerate(order, 1):
        ahead.ask(order[number : number + 1])
        yield name, exact_parameter(model, coefficients, name, surviving)


def exact_parameter(
    model: MergedModel,
    coefficients: Coefficients,
    name: str,
    surviving: SurvivingShare | None = None,
    buffers: Buffers | None = None,
) -> Tensor:
    """Merge one of the backbone's parameters or buffers: combined in fp64, window by window, and rounded once.

    Args:
        model: Experts, task vectors and how merged parameters are rounded.
        coefficients: (G, K).
        name: The parameter.
        surviving: Gets the exact and the rounded values.
        buffers: Hold what is merged; by default it is in memory of its own.

    Raises:
        ConfigError: A number is too large for the dtype on disk.
    """
    if name in model.vectors.shapes:
        written = _merged(model, coefficients, surviving, name, buffers or Buffers())
        give_back()  # the C library would keep as much as was used
        return written
    kept = model.experts.base[name]
    written = model.rounding(name, kept)
    check_fits(name, kept, written)
    return written


def _merged(
    model: MergedModel, coefficients: Coefficients, surviving: SurvivingShare | None, name: str, buffers: Buffers
) -> Tensor:
    """Merge and round one parameter, window by window."""
    groups, rounded_to = model.grouping.rows[name], model.rounding.in_turn(name)
    written = buffers.empty(model.vectors.shapes[name], model.rounding.dtypes.get(name, torch.float64))
    apart, measured = len(groups) > 1, 0
    every = surviving.every(name) if surviving and surviving.counts(name) else 0
    for number, part in enumerate(model.vectors.exactly(name, coefficients, groups)):
        rounded = rounded_to(part.merged)
        check_fits(name, part.merged, rounded)
        as_matrix(written)[part.rows, part.columns] = rounded
        if surviving and every and number % every == 0:
            surviving.add(name, part.products(rounded, apart), groups[part.rows] if apart else groups)
            measured += rounded.numel()
    if surviving and 0 < measured < written.numel():
        surviving.scale(name, written.numel() / measured)
    return written


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
