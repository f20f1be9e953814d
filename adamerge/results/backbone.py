"""What the models of all tasks have in common, merged in fp64, and the dtype of each of its tensors."""

from collections import Counter
from collections.abc import Iterator, Mapping

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
    model: MergedModel, coefficients: Coefficients, dtypes: Mapping[str, torch.dtype]
) -> Iterator[tuple[str, Tensor]]:
    """Merge the backbone's parameters and buffers, one at a time: combined in fp64 and rounded once."""
    for name in backbone_names(model.experts):
        if name in model.vectors.shapes:
            merged = model.vectors.combine_exactly(name, coefficients, model.grouping.rows[name])
        else:
            merged = model.experts.base[name]
        yield name, rounded(merged, dtypes[name])


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to the nearest numbers of a dtype, once.

    torch converts fp64 to 16 bits through fp32 and so rounds twice. Rounding to odd on the way avoids that: an inexact
    fp32 number gets an odd last bit, which lies on no midpoint of a dtype with two bits less.

    Args:
        values: Any numbers.
        dtype: dtype of the result.

    Returns:
        The numbers in this dtype.

    Example:
        >>> above_the_middle = torch.tensor(1 + 2**-8 + 2**-40, dtype=torch.float64)
        >>> above_the_middle.to(torch.bfloat16).item(), rounded(above_the_middle, torch.bfloat16).item()
        (1.0, 1.0078125)

    Reference:
        S. Boldo, G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to
        odd", IEEE Transactions on Computers 57, 2008, section 3.
    """
    if values.dtype != torch.float64 or not dtype.is_floating_point or dtype.itemsize > 2:
        return values.to(dtype)
    single = values.float()
    away = single.double().abs() > values.abs()  # from zero
    bits = single.view(torch.int32)
    odd = torch.where(single.double() == values, bits, (bits - away.int()) | 1)
    return odd.view(torch.float32).to(dtype)


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
