"""Rounding of merged parameters to the dtype on disk: once, to nearest or at random."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.types import ConfigError

RoundingMode: TypeAlias = Literal["nearest", "stochastic"]
"""How a number between two representable ones is rounded."""

_DRAWN = 2**20
"""Random numbers that are drawn together to be passed over."""

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

_LOW = 2**40 - 1
"""The lower bits of an fp64 significand; above them are two bits more than any dtype of 16 bits has."""


@dataclass(frozen=True)
class Rounding:
    """How each merged parameter is rounded to the dtype on disk.

    Attributes:
        mode: "nearest" (ties to even), or "stochastic", whose expected value is the exact one.
        dtypes: Dtype on disk by parameter; others are not rounded.
        seed: Of the random numbers; a parameter's depend on this and on its name alone.
        heads: Dtype of what is not merged, to nearest; None keeps each tensor's own.

    Example:
        >>> rounding = Rounding("nearest", {"w": torch.bfloat16})
        >>> rounding("w", torch.tensor([1.001], dtype=torch.float64))
        tensor([1.], dtype=torch.bfloat16)
    """

    mode: RoundingMode = "nearest"
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict[str, torch.dtype])
    seed: int = 0
    heads: torch.dtype | None = None

    def __call__(self, name: str, merged: Tensor, before: int = 0) -> Tensor:
        """Round one parameter to its dtype on disk.

        Args:
            name: The parameter.
            merged: Its values, of any shape, or some rows of them.
            before: Count of its numbers before those.

        Returns:
            A tensor of the same shape in the dtype on disk.
        """
        return self.in_turn(name, before)(merged)

    def in_turn(self, name: str, before: int = 0) -> Callable[[Tensor], Tensor]:
        """Return what rounds one part of a parameter after the other, as if it were the whole of it.

        Args:
            name: The parameter.
            before: Count of its numbers before the first part.
        """
        dtype = self.dtypes.get(name)
        if self.mode == "nearest" or dtype is None or not self.loses(name):
            return lambda merged: round_to_nearest(merged, dtype or merged.dtype)
        generator = _generator(self.seed, name, before)
        return lambda merged: round_at_random(merged, dtype, generator)

    def loses(self, name: str) -> bool:
        """Return whether a parameter is written in fewer bits than merges are computed in (fp32)."""
        dtype = self.dtypes.get(name)
        return dtype is not None and dtype.is_floating_point and dtype.itemsize < torch.float32.itemsize

    def as_written(self, name: str, merged: Tensor, before: int = 0) -> Tensor:
        """Return the values that a reader of the file gets, in the dtype and on the device of `merged`."""
        return self(name, merged, before).to(merged) if self.loses(name) else merged


def rounding_of(
    experts: Experts, dtype: torch.dtype | None = None, mode: RoundingMode = "nearest", seed: int = 0
) -> Rounding:
    """Choose how the backbone is rounded.

    Args:
        experts: Base and experts.
        dtype: Dtype on disk; by default, per tensor, the smallest one that holds base and experts exactly.
        mode: To nearest, or at random.
        seed: Of the random numbers.
    """
    return Rounding(mode, {name: _dtype(experts, name, dtype) for name in experts.backbone}, seed, dtype)


def check_fits(name: str, exact: Tensor, written: Tensor) -> None:
    """Refuse finite numbers beyond the largest one of the dtype on disk, which become infinite, or the largest one.

    Args:
        name: The parameter.
        exact: Its values before rounding.
        written: Its values as they are written.

    Raises:
        ConfigError: Names the parameter and its largest number.
    """
    if written.dtype == exact.dtype or not written.is_floating_point():
        return
    found = torch.finfo(written.dtype)
    if not written.numel() or written.abs().max() < found.max:  # false where there is a NaN
        return
    half_a_step = found.max / (2 - found.eps) * found.eps / 2
    lost = exact.isfinite() & (exact.double().abs() >= found.max + half_a_step)
    if lost.any():
        largest = exact[lost].abs().max().item()
        word = str(written.dtype).removeprefix("torch.")
        raise ConfigError(
            f"{name}: expected numbers of at most {found.max:g}, which {word} can hold, found {int(lost.sum())} larger "
            f"ones (up to {largest:g}); they would not stay what they are. Set out_dtype: bfloat16 or float32; a run "
            "that has learned its coefficients is exported with: adamerge export RUN FOLDER --out_dtype bfloat16"
        )


def dtype_on_disk(own: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """Choose the dtype that was asked for, if one was; integers stay what they are."""
    return dtype if dtype is not None and own.is_floating_point else own


def _dtype(experts: Experts, name: str, dtype: torch.dtype | None) -> torch.dtype:
    own = experts.base.headers[name].dtype
    if name in experts.shared:
        for weights in experts.weights.values():
            own = torch.promote_types(own, weights.headers[name].dtype)
    return dtype_on_disk(own, dtype)


def round_to_nearest(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to the nearest number of a dtype, ties to even, once.

    torch converts fp64 to 16 bits through fp32 and so rounds twice: a number just beside the middle of two neighbours
    becomes the middle, and then the wrong one. Rounding to odd in between keeps the side that it was on.

    Args:
        values: Numbers of any floating-point dtype.
        dtype: The dtype to round to.

    Example:
        >>> beside = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)  # above the middle of 1 and 1 + 2⁻⁷
        >>> beside.to(torch.bfloat16).item(), round_to_nearest(beside, torch.bfloat16).item()
        (1.0, 1.0078125)

    Reference:
        Boldo and Melquiond, Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd,
        IEEE Transactions on Computers, 2008.
    """
    if values.dtype == torch.float64 and dtype.is_floating_point and dtype.itemsize < torch.float32.itemsize:
        values = _round_to_odd(values)
    return values.to(dtype)


def round_at_random(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Round to one of the two neighbours in a dtype, with the probability that makes the expected value exact.

    P(the neighbour further from zero) = (|x| − |near|) / (|far| − |near|); representable numbers stay as they are.

    Args:
        values: Numbers x of any floating-point dtype.
        dtype: The dtype to round to.
        generator: Draws one number per value, on the CPU.

    Reference:
        Gupta et al., Deep Learning with Limited Numerical Precision, ICML 2015.
    """
    exact = values.double().cpu()
    near = _toward_zero(exact, dtype)
    far = _step(near, 1)
    share = (exact.abs() - near.double().abs()) / (far.double().abs() - near.double().abs())
    drawn = torch.rand(exact.shape, dtype=torch.float64, generator=generator)
    return torch.where(drawn < share, far, near).to(values.device)


def _round_to_odd(values: Tensor) -> Tensor:
    """Clear the lower bits of fp64 numbers, and set the bit above them where one of them was set."""
    bits = values.contiguous().view(torch.int64)
    odd = bits & _LOW
    odd += _LOW  # carries into the bit above unless all are zero
    odd |= bits
    odd &= ~_LOW
    return odd.view(torch.float64)


def _toward_zero(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to the neighbour that is not further from zero."""
    nearest = values.to(dtype)
    return torch.where(nearest.double().abs() > values.abs(), _step(nearest, -1), nearest)


def _step(values: Tensor, steps: int) -> Tensor:
    """Move away from zero by that many representable numbers; signs are a bit of their own, so bits count upwards."""
    return (values.view(_BITS[values.element_size()]) + steps).view(values.dtype)


def _generator(seed: int, name: str, before: int = 0) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    for start in range(0, before, _DRAWN):
        torch.rand(min(_DRAWN, before - start), dtype=torch.float64, generator=generator)
    return generator
