"""What the models of all tasks have in common, merged in fp64, and the dtype of each of its tensors."""

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.merging.merged_model import MergedModel
from adamerge.results.surviving import SurvivingShare
from adamerge.types import Coefficients


def exact_parameters(
    model: MergedModel, coefficients: Coefficients, surviving: SurvivingShare | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Merge the backbone's parameters and buffers, one at a time: combined in fp64 and rounded once.

    Args:
        model: Experts, task vectors and how merged parameters are rounded.
        coefficients: (G, K).
        surviving: Gets the exact and the rounded values of every parameter.
    """
    for name in model.experts.backbone:
        if name in model.vectors.shapes:
            merged = model.vectors.combine_exactly(name, coefficients, model.grouping.rows[name])
        else:
            merged = model.experts.base[name]
        written = model.rounding(name, merged)
        if surviving:
            surviving.add(name, merged, written)
        yield name, written


def usual_dtype(experts: Experts, dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    """Find the dtype of most numbers, in which transformers will load all of them."""
    numbers: Counter[torch.dtype] = Counter()
    for name, dtype in dtypes.items():
        numbers[dtype] += experts.base.shape(name).numel()
    return numbers.most_common(1)[0][0]
