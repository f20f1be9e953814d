"""What the models of all tasks have in common, merged in fp64, and the dtype of each of its tensors."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.merging.merged_model import MergedModel
from adamerge.types import Coefficients


def backbone_names(experts: Experts) -> list[str]:
    """Name what all tasks have in common: merged parameters, the base's own, and the base's buffers."""
    expert = next(iter(experts.tasks.values()))
    stored = [name for name, _ in expert.own_module.named_buffers() if name in experts.base]
    return [*experts.shared, *experts.kept, *(name for name in stored if name not in expert.head_buffers)]


def exact_parameters(
    model: MergedModel,
    coefficients: Coefficients,
    dtypes: Mapping[str, torch.dtype],
    names: Sequence[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Merge some of the backbone's parameters and buffers, one at a time: combined in fp64 and rounded once."""
    for name in backbone_names(model.experts) if names is None else names:
        if name in model.vectors.shapes:
            merged = model.vectors.combine_exactly(name, coefficients, model.grouping.rows[name])
        else:
            merged = model.experts.base[name]
        yield name, merged.to(dtypes[name])


def dtype_on_disk(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """Choose the dtype that was asked for, if one was; integers stay what they are."""
    return dtype if dtype is not None and own.is_floating_point else own


def backbone_dtypes(experts: Experts, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Choose each backbone tensor's dtype: as asked for, else the smallest that holds base and experts exactly."""
    dtypes: dict[str, torch.dtype] = {}
    for name in backbone_names(experts):
        own = experts.base.headers[name].dtype
        for weights in experts.weights.values():
            if name in experts.shared:
                own = torch.promote_types(own, weights.headers[name].dtype)
        dtypes[name] = dtype_on_disk(own, dtype)
    return dtypes


def usual_dtype(experts: Experts, dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    """Find the dtype of most numbers, in which transformers will load all of them."""
    numbers: Counter[torch.dtype] = Counter()
    for name, dtype in dtypes.items():
        numbers[dtype] += experts.base.shape(name).numel()
    return numbers.most_common(1)[0][0]
