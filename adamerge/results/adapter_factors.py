"""The change of a merge as factors: base + left @ right, per parameter, or the reason why there are none.

    merged − base = diag(1 − Σₖ cₖ)·(centre − base) + Σₖ diag(cₖ)·(expertₖ − base)                  plain task vectors
    merged − base = (centre − base) + Σₖ diag(cₖ)·τₖ                                           transformed task vectors

with cₖ per row where rows have coefficients of their own. The changes of adapters are factors already. A centre or a
transformed task vector C is one if its columns are in the span of the adapters' left factors: C = Q (Qᵀ C).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.experts.experts import Expert
from adamerge.experts.low_rank import Adapted, LowRank
from adamerge.merging.factor_algebra import Svd, column_basis, svd_of_product
from adamerge.merging.factor_weights import weighted_left
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.task_vectors import as_matrix
from adamerge.types import Coefficients

OUTSIDE = 1e-4
"""Share of a centre or task vector that may be outside the span before it is refused; below, it is rounding."""

_WHOLE = "DoRA, a bias, a trained module or rows, experts of a mixture"

_STORED = 2**-23
"""Rounding of centres and task vectors, which are stored in fp32, as a share of the centre."""


class Term(NamedTuple):
    """A part of a change, left @ right, with its coefficients.

    Attributes:
        left: (R, n), fp64.
        right: (n, M).
    """

    left: Tensor
    right: Tensor


class NotLowRankError(Exception):
    """A change that has no factors; the text says what leaves the span, and what to do."""


@dataclass(frozen=True)
class LowRankChange:
    """The factors of one parameter, truncated.

    Attributes:
        svd: Of the change, without what was cut off.
        dropped: Norm of what was cut off.
    """

    svd: Svd
    dropped: float

    @property
    def rank(self) -> int:
        """Number of singular values that were kept."""
        return len(self.svd.sigma)

    @property
    def norm(self) -> float:
        """Norm of the change, before anything was cut off."""
        return (self.svd.sigma.square().sum().item() + self.dropped**2) ** 0.5

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (R, r) and (r, M), fp64, each with the square roots of the singular values."""
        root = self.svd.sigma.sqrt()
        return self.svd.left * root, (self.svd.right * root).T


def low_rank_change(
    model: MergedModel, coefficients: Coefficients, name: str, max_rank: int | None
) -> LowRankChange | None:
    """Find the factors of what a merge makes of one parameter; None if it leaves it as in the base.

    Args:
        model: Experts, centre, task vectors and grouping.
        coefficients: (G, K).
        name: The parameter.
        max_rank: Largest number of singular values that are kept.

    Raises:
        NotLowRankError: The change leaves the span of the adapters' factors.
    """
    terms = list(_terms(model, coefficients, name))
    if not terms:
        return None
    svd = svd_of_product(
        torch.cat([term.left for term in terms], 1), torch.cat([term.right.double() for term in terms])
    )
    kept = Svd(svd.left[:, :max_rank], svd.sigma[:max_rank], svd.right[:, :max_rank])
    return LowRankChange(kept, svd.sigma[len(kept.sigma) :].norm().item()) if len(svd.sigma) else None


def _terms(model: MergedModel, coefficients: Coefficients, name: str) -> Iterator[Term]:
    table = coefficients.detach().cpu().double()[model.grouping.rows[name].cpu()]  # (1, R or components, K)
    if isinstance(model.vectors, Factored):
        yield from _of_centre(model, name, 1 - table.sum(1))
        for column, weights in zip(model.vectors.experts, table.unbind(1), strict=True):
            if column in model.experts.tasks:
                yield from _of_expert(model, model.experts.tasks[column], name, weights)
            elif weights.any():
                change = as_matrix(model.vectors.source(column)[name]).double() - as_matrix(model.experts.base[name])
                yield from _projected(model, name, change, weights, column)
        return
    yield from _of_centre(model, name, torch.ones(1, dtype=torch.float64))
    for output, vector, weights in zip(model.vectors.experts, model.vectors.stack(name), table.unbind(1), strict=True):
        if weights.any():
            yield from _projected(model, name, as_matrix(vector), weights, f"the task vector {output}")


def _of_centre(model: MergedModel, name: str, weights: Tensor) -> Iterator[Term]:
    centre, base = model.vectors.centre(name).cpu(), model.experts.base[name]
    if centre is not base and weights.any():
        change = as_matrix(centre).double() - as_matrix(base).double()
        yield from _projected(model, name, change, weights, "the centre")


def _of_expert(model: MergedModel, expert: Expert, name: str, weights: Tensor) -> Iterator[Term]:
    """Factors of one adapter; nothing for an expert that leaves the parameter as it is, or has no weight."""
    if not weights.any():
        return
    change = factors_of(expert, name)
    if change is not None:
        yield Term(weighted_left(model.vectors.per, change, change.left.double(), weights), change.right)
    elif reason := whole_change(model, expert, name):
        raise NotLowRankError(reason)


def factors_of(expert: Expert, name: str) -> LowRank | None:
    """Read the factors of an adapter's change of one parameter; None if it has none."""
    if not isinstance(expert.weights, Adapted) or not expert.weights.over_base:
        return None
    change = expert.weights.change(name)
    return change.low_rank() if change is not None and change.low_rank is not None else None


def whole_change(model: MergedModel, expert: Expert, name: str) -> str | None:
    """Say how an expert changes a parameter without factors; None if it does not change it."""
    if not isinstance(expert.weights, Adapted) or not expert.weights.over_base:
        same = torch.equal(expert.weights[name], model.experts.base[name])
        return None if same else f"{expert.name} is a complete checkpoint there, not an adapter"
    change = expert.weights.change(name)
    whole = change is not None and change.low_rank is None
    return f"{expert.name} changes the whole tensor ({_WHOLE})" if whole else None


def _projected(model: MergedModel, name: str, change: Tensor, weights: Tensor, what: str) -> Iterator[Term]:
    """Factors of a dense change whose columns are in the span of the adapters' left factors.

    Raises:
        NotLowRankError: They are not.
    """
    change = change.cpu().double()
    if not change.any():
        return
    lefts = [found.left for task in model.experts.tasks.values() if (found := factors_of(task, name)) is not None]
    basis = column_basis(lefts) if lefts else change.new_zeros(len(change), 0)
    inside = basis.T @ change
    outside = (change - basis @ inside).norm()
    if outside > OUTSIDE * change.norm() + _STORED * as_matrix(model.vectors.centre(name)).double().norm().cpu():
        share = (outside / change.norm()).item()
        reasons = [reason for task in model.experts.tasks.values() if (reason := whole_change(model, task, name))]
        raise NotLowRankError(
            f"{share:.0%} of {what} is outside the span of the adapters' factors"
            + (f" ({'; '.join(reasons)})" if reasons else "")
        )
    yield Term(weights.unsqueeze(1) * basis, inside)
