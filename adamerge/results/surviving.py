"""How much of a merge is left after it was rounded to the dtype on disk."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounding import RoundingMode
from adamerge.types import Coefficients

ENOUGH = 0.9
"""Shares below this are warned about."""

_QUARTER = 0.25
"""Part of the groups that is worth a warning, however little they hold."""

MEASURED = 2**19
"""Numbers on which the share of a large parameter with one coefficient per expert is measured, at least."""

_LISTED = 10
"""Experts whose shares are printed."""


@dataclass(frozen=True)
class Surviving:
    """Share of what was merged in that is left in the written file.

        share = ⟨written − centre, merged − centre⟩ / ‖merged − centre‖²,

    which is a sum over experts k and groups g, since merged − centre = Σ C[g, k]·τₖ: the share of an expert, or of a
    group, has the terms of that expert, or group, alone in numerator and denominator. 1 is everything, 0 nothing;
    a task vector that moves others' numbers over a rounding step may have more than 1.

    Attributes:
        written: ⟨written − centre, C[g, k]·τₖ⟩ by group and expert, fp64, (G, K).
        merged: ⟨merged − centre, C[g, k]·τₖ⟩, fp64, (G, K).
        groups: Names of the groups.
        experts: Names of the experts.
        dtypes: The dtypes of fewer than 32 bits that were rounded to; numbers in others are not counted.
        modules: The share of each merged file beside the parameters, by path (2_Dense/model.safetensors).
    """

    written: Tensor
    merged: Tensor
    groups: tuple[str, ...]
    experts: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    modules: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def share(self) -> float | None:
        """The share of everything that was merged in; None where nothing was rounded or nothing merged in."""
        return _ratio(self.written.sum(), self.merged.sum())

    def by_expert(self) -> dict[str, float | None]:
        """Return the share of each task vector."""
        return _ratios(self.experts, self.written.sum(0), self.merged.sum(0))

    def by_group(self) -> dict[str, float | None]:
        """Return the share of each group."""
        return _ratios(self.groups, self.written.sum(1), self.merged.sum(1))

    def as_json(self) -> dict[str, object]:
        """Return the share of everything, of each task vector and group, if there is one, and of each module."""
        found = {"experts": self.by_expert(), "groups": self.by_group()} if self.share is not None else {}
        return {"all": self.share, **found, **({"modules": dict(self.modules)} if self.modules else {})}

    def lines(self, mode: RoundingMode) -> Iterator[str]:
        """Describe the share and the smallest ones in it, and warn where little is left.

        Args:
            mode: How was rounded.
        """
        if self.share is not None:
            few = self._low_groups()
            below = f"; {len(few)} of {len(self.groups)} groups below {ENOUGH}" if few and len(self.groups) > 1 else ""
            least = _each(self.by_expert()) + _least("group", self.by_group()) + below
            yield f"rounded to {self._words} ({mode}): {self.share:.3f} of what was merged in is left{least}"
        for name, share in self.modules.items():
            yield f"{name}: rounded to 16 bits ({mode}): {share:.3f} of what was merged in is left"
        if warning := self.warning(mode):
            yield f"warning: {warning}"

    def warning(self, mode: RoundingMode) -> str | None:
        """Say which task vectors, groups and modules lost more than a tenth, and what to do; None if none did.

        Groups alone are warned about where they hold a tenth of what was merged in, are a quarter of all groups, or
        lost nearly everything.
        """
        shares = {"everything": self.share, **self.by_expert()} if self.dtypes else {}
        low = [f"{name}: {share:.3f}" for name, share in {**shares, **self.modules}.items() if _is_low(share)]
        groups = self._low_groups()
        if not low and not self._many(groups):
            return None
        if groups and len(self.groups) > 1:
            least = min(groups, key=lambda name: groups[name])
            count = f"{len(groups)} of {len(self.groups)} groups below {ENOUGH}"
            low.append(f"{count} (least {least}: {groups[least]:.3f})")
        way_out = "out_dtype: float32" if mode == "stochastic" else "rounding: stochastic, or out_dtype: float32"
        return (
            f"rounding to {self._words} removed more than {100 * (1 - ENOUGH):.0f} % of what was merged in; left are "
            f"{', '.join(low)}. Set {way_out}."
        )

    def _low_groups(self) -> dict[str, float]:
        """List the shares of the groups that lost more than a tenth."""
        return {name: share for name, share in self.by_group().items() if share is not None and share < ENOUGH}

    def _many(self, low: Mapping[str, float]) -> bool:
        """Return whether groups hold, or are, a large part of the merge, or one of them lost nearly everything."""
        sizes = self.merged.sum(1)
        held = sum(sizes[self.groups.index(name)].item() for name in low) / max(sizes.sum().item(), 1e-300)
        lost = any(share < 1 - ENOUGH for share in low.values())
        return lost or held >= 1 - ENOUGH or len(low) >= _QUARTER * max(int((sizes > 0).sum()), 1)

    @property
    def _words(self) -> str:
        return " and ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes) or "16 bits"


class SurvivingShare:
    """Measure the surviving share while parameters are written, one at a time.

    A parameter that has one coefficient per expert and more than a million numbers is measured on half a million of
    them at least, spread over it; `scale` lets these count for all.

    Args:
        model: Task vectors, their centre and grouping.
        coefficients: C, (G, K).
    """

    def __init__(self, model: MergedModel, coefficients: Coefficients) -> None:
        self._model, self._coefficients = model, coefficients.detach().cpu().double()
        self._sums, self._rows = dict[str, Tensor](), dict[str, Tensor]()

    def counts(self, name: str) -> bool:
        """Return whether a parameter counts: whether it is rounded below 32 bits."""
        return self._model.rounding.loses(name)

    def every(self, name: str) -> int:
        """Return of how many parts of a parameter, as it is written part by part, one is measured."""
        if len(self._model.grouping.rows[name]) > 1:
            return 1
        return max(1, self._model.vectors.shapes[name].numel() // MEASURED)

    def scale(self, name: str, factor: float) -> None:
        """Let what was added of a parameter count for all of it: multiply it by all numbers over the measured ones."""
        self._sums[name] *= factor

    def add(self, name: str, products: Tensor, groups: Tensor) -> None:
        """Add one parameter that counts, or some of its rows.

        Args:
            name: The parameter.
            products: ⟨written − centre, τₖ⟩ and ⟨merged − centre, τₖ⟩ of each row, (2, r, K), or of all, (2, 1, K).
            groups: The group of each row, (r,), or of all of them, (1,).
        """
        index, own = groups.cpu(), self._groups(name)
        if name not in self._sums:
            self._sums[name] = torch.zeros(2, len(own), self._coefficients.shape[1], dtype=torch.float64)
        self._sums[name].index_add_(1, torch.searchsorted(own, index), products * self._coefficients[index])

    def of(self, name: str) -> list[list[list[float]]] | None:
        """Return what was added of one parameter, for `put`: numbers that JSON keeps bit by bit; None of nothing."""
        return self._sums[name].tolist() if name in self._sums else None

    def put(self, name: str, found: object) -> None:
        """Put what another process added of one parameter, by `of`, in the place of adding it."""
        if found is not None:
            self._sums[name] = torch.tensor(found, dtype=torch.float64)

    def _groups(self, name: str) -> Tensor:
        """Return the groups of one parameter, in order; found once."""
        if name not in self._rows:
            self._rows[name] = self._model.grouping.rows[name].cpu().unique()
        return self._rows[name]

    def found(self) -> Surviving:
        """Return the shares of all parameters that were added, whatever their order."""
        names = [name for name in self._model.experts.backbone if name in self._sums]
        total = torch.zeros(2, *self._coefficients.shape, dtype=torch.float64)
        for name in names:
            total.index_add_(1, self._groups(name), self._sums[name])
        groups, experts = self._model.grouping.groups, self._model.vectors.experts
        dtypes = dict.fromkeys(self._model.rounding.dtypes[name] for name in names)
        return Surviving(total[0], total[1], groups, experts, tuple(dtypes))


def _is_low(share: float | None) -> bool:
    return share is not None and share < ENOUGH


def _ratio(written: Tensor, merged: Tensor) -> float | None:
    return (written / merged).item() if merged != 0 else None


def _ratios(names: tuple[str, ...], written: Tensor, merged: Tensor) -> dict[str, float | None]:
    return {name: _ratio(*pair) for name, *pair in zip(names, written, merged, strict=True)}


def _each(shares: Mapping[str, float | None]) -> str:
    """List the share of every expert, if there is more than one; of a large pool the smallest."""
    known = sorted((share, name) for name, share in shares.items() if share is not None)
    listed = ", ".join(f"{name} {share:.3f}" for share, name in known[:_LISTED])
    more = f" and {len(known) - _LISTED} with more" if len(known) > _LISTED else ""
    return f"; by expert: {listed}{more}" if len(known) > 1 else ""


def _least(kind: str, shares: Mapping[str, float | None]) -> str:
    """Name the expert or group with the smallest share, if there is more than one."""
    known = {name: share for name, share in shares.items() if share is not None}
    if len(known) < 2:
        return ""
    name = min(known, key=lambda one: known[one])
    return f"; least of {kind} {name}: {known[name]:.3f}"
