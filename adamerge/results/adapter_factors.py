"""The change of a merge as factors: base + left @ right, per parameter, or the reason why there are none.

    merged − base = diag(1 − Σₖ cₖ)·(centre − base) + Σₖ diag(cₖ)·(expertₖ − base)                  plain task vectors
    merged − base = (centre − base) + Σₖ diag(cₖ)·τₖ                                           transformed task vectors

with cₖ per row where rows have coefficients of their own. The changes of adapters are factors already; a centre or a
transformed task vector is one if it is in their span (adapter_span.py). The experts of a mixture that one parameter
holds, (E, R, M), have factors each.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.experts.experts import Expert
from adamerge.experts.low_rank import Adapted, LowRank
from adamerge.merging.factor_algebra import Svd, svd_of_product
from adamerge.merging.factor_weights import weighted_left
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.matrices import as_matrix
from adamerge.merging.merged_model import MergedModel
from adamerge.results.adapter_span import Term, blocks_of, projection
from adamerge.types import Coefficients

OUTSIDE = 1e-4
"""Share of a centre or task vector that may be outside the span before it is refused; below, it is rounding."""

_STORED = 2**-23
"""Rounding of centres and task vectors, which are stored in fp32, as a share of the centre."""


class NotLowRankError(Exception):
    """A change that has no factors; the text says what leaves the span, and what to do."""


@dataclass(frozen=True)
class LowRankChange:
    """The factors of one parameter, truncated.

    Attributes:
        svds: Of the change, without what was cut off: one of a matrix, one per expert of a mixture.
        dropped: Norm of what was cut off.
        stacked: Whether the parameter holds the experts of a mixture, so that its factors are (E, R, r) and (E, r, M).
    """

    svds: tuple[Svd, ...]
    dropped: float
    stacked: bool = False

    @property
    def rank(self) -> int:
        """Largest number of singular values that were kept."""
        return max(len(svd.sigma) for svd in self.svds)

    @property
    def kept(self) -> float:
        """Sum of all singular values that were kept."""
        return sum(svd.sigma.sum().item() for svd in self.svds)

    @property
    def norm(self) -> float:
        """Norm of the change, before anything was cut off."""
        return (sum(svd.sigma.square().sum().item() for svd in self.svds) + self.dropped**2) ** 0.5

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (R, r) and (r, M), fp64, each with the square roots of the singular values; of a mixture, stacks."""
        lefts, rights = zip(*(_sides(svd, self.rank) for svd in self.svds), strict=True)
        return (torch.stack(lefts), torch.stack(rights)) if self.stacked else (lefts[0], rights[0])


def _sides(svd: Svd, rank: int) -> tuple[Tensor, Tensor]:
    """Divide a decomposition in two factors, padded with zeros to a rank."""
    root, missing = svd.sigma.sqrt(), rank - len(svd.sigma)
    pad = torch.nn.functional.pad
    return pad(svd.left * root, (0, missing)), pad((svd.right * root).T, (0, 0, 0, missing))


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
    left, right = torch.cat([term.left for term in terms], 2), torch.cat([term.right.double() for term in terms], 1)
    svds = [svd_of_product(*sides) for sides in zip(left, right, strict=True)]
    kept = tuple(Svd(svd.left[:, :max_rank], svd.sigma[:max_rank], svd.right[:, :max_rank]) for svd in svds)
    cut = [svd.sigma[len(own.sigma) :].square().sum().item() for svd, own in zip(svds, kept, strict=True)]
    found = LowRankChange(kept, sum(cut) ** 0.5, stacked=_stacked(model, name))
    return found if found.rank else None


def _terms(model: MergedModel, coefficients: Coefficients, name: str) -> Iterator[Term]:
    table = coefficients.detach().cpu().double()[model.grouping.rows[name].cpu()]  # (1, R or components, K)
    if isinstance(model.vectors, Factored):
        yield from _of_centre(model, name, 1 - table.sum(1))
        for column, weights in zip(model.vectors.experts, table.unbind(1), strict=True):
            if column in model.experts.tasks:
                yield from _of_expert(model, model.experts.tasks[column], name, weights)
            elif weights.any():
                change = model.vectors.source(column)[name].double() - model.experts.base[name].double()
                yield from _projected(model, name, change, weights, column)
        return
    yield from _of_centre(model, name, torch.ones(1, dtype=torch.float64))
    for output, vector, weights in zip(model.vectors.experts, model.vectors.stack(name), table.unbind(1), strict=True):
        if weights.any():
            yield from _projected(model, name, vector, weights, f"the task vector {output}")


def _of_centre(model: MergedModel, name: str, weights: Tensor) -> Iterator[Term]:
    centre, base = model.vectors.centre(name).cpu(), model.experts.base[name]
    if centre is not base and weights.any():
        yield from _projected(model, name, centre.double() - base.double(), weights, "the centre")


def _of_expert(model: MergedModel, expert: Expert, name: str, weights: Tensor) -> Iterator[Term]:
    """Yield the factors of one adapter; nothing for an expert that leaves the parameter as it is, or has no weight."""
    if not weights.any():
        return
    change = factors_of(expert, name)
    if change is not None:
        left = weighted_left(model.vectors.per, change, change.left.double(), weights)
        yield Term(blocks_of(left), blocks_of(change.right))
    elif reason := whole_change(model, expert, name):
        raise NotLowRankError(reason)


def _stacked(model: MergedModel, name: str) -> bool:
    """Return whether the experts' factors of a parameter are of the experts of a mixture, each by itself."""
    found = (factors_of(task, name) for task in model.experts.tasks.values())
    return any(one.left.ndim == 3 for one in found if one is not None)


def factors_of(expert: Expert, name: str) -> LowRank | None:
    """Read the factors of an adapter's change of one parameter; None if it has none."""
    if not isinstance(expert.weights, Adapted) or not expert.weights.over_base:
        return None
    change = expert.weights.change(name)
    return change.factors() if change is not None else None


def whole_change(model: MergedModel, expert: Expert, name: str) -> str | None:
    """Say how an expert changes a parameter without factors; None if it does not change it."""
    if not isinstance(expert.weights, Adapted) or not expert.weights.over_base:
        same = torch.equal(expert.weights[name], model.experts.base[name])
        return None if same else f"{expert.name} is a complete checkpoint there, not an adapter"
    change = expert.weights.change(name)
    if change is None or change.low_rank is not None:
        return None
    return f"{expert.name} changes the whole tensor ({change.kind})"


def _projected(model: MergedModel, name: str, change: Tensor, weights: Tensor, what: str) -> Iterator[Term]:
    """Compute the factors of a dense change whose columns, or rows, are in the span of the adapters' factors.

    Raises:
        NotLowRankError: They are not.
    """
    if not change.any():
        return
    stacked = _stacked(model, name)
    blocks = change.cpu().double() if stacked else as_matrix(change.cpu().double()).unsqueeze(0)
    found = [one for task in model.experts.tasks.values() if (one := factors_of(task, name)) is not None]
    enough = OUTSIDE * blocks.norm() + _STORED * model.vectors.centre(name).double().norm().cpu()
    term, outside = projection(blocks, found, model.experts.layouts.get(name), enough.item())
    if outside > enough:
        reasons = [reason for task in model.experts.tasks.values() if (reason := whole_change(model, task, name))]
        raise NotLowRankError(
            f"{outside / blocks.norm().item():.0%} of {what} is outside the span of the adapters' factors"
            + (f" ({'; '.join(reasons)})" if reasons else "")
        )
    scale = weights.view(-1, 1, 1) if stacked else weights.unsqueeze(1)
    yield Term(scale * term.left, term.right)
