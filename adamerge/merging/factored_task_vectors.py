"""Task vectors of adapters: low-rank factors are multiplied into the merged tensor and never made dense.

    combine:  merged += [c₁s₁·B₁ … cₖsₖ·Bₖ] @ [A₁; …; Aₖ]                      one product of rank Σr
    inner:    ⟨G, s·B A⟩ row by row = s · Σ over the columns of (G Aᵀ) ⊙ B

A pool may mix adapters and full checkpoints: what has no factors is read tile by tile, as in mapped_task_vectors.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.experts.low_rank import Adapted, LowRank
from adamerge.merging.device import full_precision
from adamerge.merging.grouping import Grouping
from adamerge.merging.mapped_task_vectors import SCRATCH, Mapped, differences, windows
from adamerge.merging.task_vectors import Bundle, TaskVectors, Tile, as_matrix, matrix_shape
from adamerge.storage.digest import digest_of_json
from adamerge.storage.weights import Weights
from adamerge.types import Coefficients, Parameters


class _Terms(NamedTuple):
    """What the experts' task vectors of one parameter consist of.

    Attributes:
        low: Column and factors of every expert that has factors.
        dense: Columns of the experts that are read as whole tensors.
        on_base: Columns of the experts that are the base plus factors, or the base itself.
    """

    low: list[tuple[int, LowRank]]
    dense: list[int]
    on_base: list[int]


class Factored(TaskVectors):
    """Task vectors of which some are low-rank changes of the base.

    Args:
        experts: Each expert's weights by its name; those of adapters are `Adapted`.
        names: Parameters to merge.
        centre: What the task vectors are added to, and what is subtracted from the experts.
        base: What the adapters are applied to.
        dtype: Of the computation.
        device: Of the computation.
    """

    def __init__(
        self,
        experts: Mapping[str, Weights],
        names: Sequence[str],
        centre: Weights,
        base: Weights,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.experts = tuple(experts)
        self.shapes = {name: centre.shape(name) for name in names}
        self.bundles = tuple((name,) for name in names)
        self.dtype, self.device = dtype, torch.device(device)
        self._weights, self._centre, self._base = tuple(experts.values()), centre, base
        self._scratch = torch.empty(max(SCRATCH, len(experts) + 1), dtype=dtype, device=device)

    @override
    def centre_of(self, bundle: Bundle) -> Tensor:
        (name,) = bundle
        return as_matrix(self._centre[name])

    @override
    def digest(self) -> str:
        sources = [one.digest() for one in (*self._weights, self._centre, self._base)]
        return digest_of_json([self.experts, list(self.shapes), str(self.dtype), sources])

    @override
    @torch.no_grad()
    def combine(
        self, coefficients: Coefficients, grouping: Grouping, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        matrices = self._new_matrices(self._bundles_of(names))
        table = coefficients.detach().to(self.device, self.dtype)
        with full_precision(self.device):
            for bundle, merged in matrices.items():
                weights = table[grouping.of(bundle, self.device)[0]]  # (1 or R, K)
                self._merge_one(merged.copy_(self.centre_of(bundle)), bundle[0], weights)
        return {name: matrix.view(self.shapes[name]) for (name,), matrix in matrices.items()}

    @override
    def _products(self, gradients: Parameters) -> Iterator[tuple[Bundle, Tensor]]:
        with full_precision(self.device):
            for name, gradient in gradients.items():
                gradient = as_matrix(gradient.to(self.device, self.dtype))
                yield (name,), self._products_of(name, gradient).unsqueeze(0)

    @override
    def tiles(self, bundles: Iterable[Bundle]) -> Iterator[Tile]:
        return (Tile((name,), *window) for (name,) in bundles for window in self._windows(name))

    @override
    @torch.no_grad()
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        terms, table = self._terms(name), coefficients.detach().cpu().double()
        sources = {self.experts[k]: self._weights[k] for k in terms.dense}
        columns = [table[:, k] for k in terms.dense]
        if self._centre is not self._base:  # else the rest, 1 − Σ of the dense ones, is the base's
            sources[""] = self._base
            columns.append(table[:, terms.on_base].sum(1))
        total = self._centre[name].double()
        if sources:
            dense = Mapped(sources, [name], self._centre, self._centre, torch.float64)
            total = dense.combine_exactly(name, torch.stack(columns, 1), groups)
        rows = table[groups.cpu()]  # (1 or R, K)
        for k, (left, right, scale) in terms.low:
            if rows[:, k].any():
                total = total + (rows[:, k : k + 1] * scale * (left.double() @ right.double())).view(total.shape)
        return total

    def _merge_one(self, merged: Tensor, name: str, weights: Tensor) -> None:
        """Add weighted task vectors to one parameter (R, M), given the weights of the whole (1, K), or of its rows."""
        terms = self._terms(name)
        sources, columns = self._whole(name, terms)
        if sources:
            dense = torch.stack([weights[:, own].sum(1) for own in columns], 1)  # (1 or R, K')
            dense = dense.expand(len(merged), -1).unsqueeze(1)  # (R, 1, K')
            for rows, part, stack in differences(sources, as_matrix(self._centre[name]), self._scratch):
                merged[rows, part].unsqueeze(1).baddbmm_(dense[rows], stack.transpose(0, 1))
        if terms.low:
            left = torch.cat([self._own(one.left) * (one.scale * weights[:, k : k + 1]) for k, one in terms.low], 1)
            merged.addmm_(left, torch.cat([self._own(one.right) for _, one in terms.low]))

    def _products_of(self, name: str, gradient: Tensor) -> Tensor:
        """⟨gradient, τₖ⟩ row by row, (R, K), of one parameter's gradient (R, M)."""
        terms = self._terms(name)
        products = gradient.new_zeros(len(gradient), len(self.experts))
        sources, columns = self._whole(name, terms)
        if sources:
            for rows, part, stack in differences(sources, as_matrix(self._centre[name]), self._scratch):
                found = torch.bmm(gradient[rows, part].unsqueeze(1), stack.permute(1, 2, 0)).squeeze(1)  # (r, K')
                for own, values in zip(columns, found.unbind(1), strict=True):
                    products[rows, own] += values.unsqueeze(1)
        if terms.low:
            rights = torch.cat([self._own(one.right) for _, one in terms.low])  # (Σr, M)
            projected, start = gradient @ rights.T, 0  # (R, Σr)
            for k, one in terms.low:
                part = projected[:, start : start + len(one.right)]
                products[:, k] += one.scale * (part * self._own(one.left)).sum(1)
                start += len(one.right)
        return products

    def _terms(self, name: str) -> _Terms:
        terms = _Terms([], [], [])
        for k, weights in enumerate(self._weights):
            change = weights.change(name) if isinstance(weights, Adapted) else None
            if not isinstance(weights, Adapted) or (change is not None and change.low_rank is None):
                terms.dense.append(k)
                continue
            terms.on_base.append(k)
            if change is not None and change.low_rank is not None:
                terms.low.append((k, change.low_rank()))
        return terms

    def _whole(self, name: str, terms: _Terms) -> tuple[list[Tensor], list[list[int]]]:
        """Whole tensors whose differences from the centre count, and the columns that each counts for.

        Over a centre that is not the base, an adapter's task vector is (base − centre) + scale · B A.
        """
        sources = [as_matrix(self._weights[k][name]) for k in terms.dense]
        columns = [[k] for k in terms.dense]
        if self._centre is not self._base and terms.on_base:
            sources.append(as_matrix(self._base[name]))
            columns.append(terms.on_base)
        return sources, columns

    def _windows(self, name: str) -> Iterator[tuple[slice, slice, Tensor]]:
        """Dense task vectors of all experts, for what needs them: a window of rows and columns at a time."""
        terms = self._terms(name)
        low, count = dict(terms.low), len(self.experts)
        centre, base = as_matrix(self._centre[name]), as_matrix(self._base[name])
        whole = {k: as_matrix(self._weights[k][name]) for k in terms.dense}
        for r, m in windows(*matrix_shape(self.shapes[name]), len(self._scratch) // count):
            origin = self._own(centre[r, m])
            stack = self._scratch[: count * origin.numel()].view(count, *origin.shape)
            for k, vector in enumerate(stack):
                source = whole.get(k, base)
                torch.sub(self._own(source[r, m]), origin, out=vector)
                if k in low:
                    left, right, scale = low[k]
                    vector.addmm_(self._own(left[r]), self._own(right[:, m]), alpha=scale)
            yield r, m, stack

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)
