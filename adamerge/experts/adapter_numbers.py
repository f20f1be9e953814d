"""Whether the numbers in an adapter's file can be those of a trained adapter."""

from collections.abc import Iterator

import torch

from adamerge.experts.adapter_keys import Keys, Part, Parts
from adamerge.experts.name_patterns import several
from adamerge.experts.quantisation import quantised
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError

_FACTORS: tuple[Part, ...] = ("A", "B", "embedding A", "embedding B")

_ROUNDING = 1e-6
"""Largest ‖B A‖ / (‖B‖ ‖A‖) of a product that is 0 but for the rounding of its factors."""


def check_numbers(source: str, tensors: Weights, keys: Keys) -> None:
    """Refuse factors of other dtypes than floating point, and NaN and infinite numbers; each tensor is read once.

    Args:
        source: Name of the adapter in messages.
        tensors: The adapter's tensors.
        keys: What these are.

    Raises:
        IncompatibleExpertsError: There are some.
    """
    packed = quantised(tensors.headers, [name for parts in keys.modules for name in parts.names.values()])
    if packed:
        raise IncompatibleExpertsError(
            f"{source}: expected factors in floating point of at least 16 bits, found {several(packed)} as "
            f"{tensors.headers[packed[0]].dtype}, whose scales are unknown. Save the adapter before it is quantised."
        )
    real = [name for name, header in tensors.headers.items() if header.dtype.is_floating_point]
    bad = [name for name in real if not bool(torch.isfinite(tensors[name].float()).all())]
    if bad:
        raise IncompatibleExpertsError(
            f"{source}: expected finite numbers, found NaN or infinite ones in {several(bad)}: the training diverged, "
            "or the file is damaged. Give an earlier state of the training, or copy the file again."
        )


def without_effect(source: str, tensors: Weights, keys: Keys) -> Iterator[str]:
    """Say which modules have factors whose product is 0, as before training."""
    pairs = [parts for parts in keys.modules if {"A", "embedding A"} & parts.names.keys()]
    idle = [parts.module for parts in pairs if not moves(tensors, parts)]
    if idle:
        count = "all" if len(idle) == len(pairs) else f"{len(idle)} of {len(pairs)}"
        yield (
            f"{source}: the factors of {count} modules ({several(idle)}) are 0, as before training, so that they "
            "change nothing there. If they were trained, give the file that was saved after it."
        )


def moves(tensors: Weights, parts: Parts) -> bool:
    """Return whether the product of factors is not 0; of an orthogonal start it is, to rounding, and neither factor."""
    first, second = (tensors[parts.names[part]].double() for part in _FACTORS if part in parts.names)
    if parts.mlx or min(first.ndim, second.ndim) < 2 or first.shape[0] != second.shape[1]:
        return bool(first.any() and second.any())
    first, second = first.flatten(1), second.flatten(1)
    square = ((second.T @ second) * (first @ first.T)).sum()  # ‖B A‖²
    return bool(square > _ROUNDING**2 * first.square().sum() * second.square().sum())
