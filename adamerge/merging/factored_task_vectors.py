"""Task vectors of adapters: low-rank factors are multiplied into the merged tensor and never made dense.

    combine:  merged += [c₁s₁·B₁ … cₖsₖ·Bₖ] @ [A₁; …; Aₖ]                      one product of rank Σr
    inner:    ⟨G, s·B A⟩ row by row = s · Σ over the columns of (G Aᵀ) ⊙ B; by component, Σ over its rows

The experts of a mixture that are fused in one tensor (E, R, M) have factors each, and products of batches. A pool may
mix adapters and full checkpoints: what has no factors is read tile by tile, as in mapped_task_vectors.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.experts.low_rank import Adapted, LowRank
from adamerge.merging.device import full_precision
from adamerge.merging.exact import windows
from adamerge.merging.factor_weights import Per, add_products, add_whole, packs, weighted_left, whole_weights
from adamerge.merging.grouping import Grouping
from adamerge.merging.mapped_task_vectors import SCRATCH, Mapped, differences
from adamerge.merging.matrices import as_matrix, matrix_shape
from adamerge.merging.task_vectors import Bundle, TaskVectors, Tile
from adamerge.storage.digest import FileDigest, FileIdentity, digest_of_json
from adamerge.storage.some_rows import SomeRows
from adamerge.storage.weights import Weights
from adamerge.types import Coefficients, Parameters


class _Terms(NamedTuple):
    """What the experts' task vectors of one parameter consist of.

    Attributes:
        low: Column and factors of every expert that has factors of the whole matrix.
        blocks: Column and factors of every expert that has factors per expert of a mixture.
        whole: Column and weights of every expert whose own tensor, or the one below its factors, is in a file.
        computed: Columns of the experts whose tensor is computed whole.
        on_base: Columns of the experts that are the base plus factors, or the base itself.
    """

    low: list[tuple[int, LowRank]]
    blocks: list[tuple[int, LowRank]]
    whole: dict[int, Weights]
    computed: list[int]
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
        per: What several groups of one parameter are of: rows of the matrix, or components of the factors; what has no
            factors is then one component.
    """

    def __init__(
        self,
        experts: Mapping[str, Weights],
        names: Sequence[str],
        centre: Weights,
        base: Weights,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        per: Per = "row",
    ) -> None:
        self.experts = tuple(experts)
        self.shapes = {name: centre.shape(name) for name in names}
        self.bundles = tuple((name,) for name in names)
        self.dtype, self.device, self.per = dtype, torch.device(device), per
        self._weights, self._centre, self._base = tuple(experts.values()), centre, base
        self._scratch = torch.empty(max(SCRATCH, len(experts) + 1), dtype=dtype, device=device)

    def by_component(self) -> "Factored":
        """Return the same task vectors, of which groups govern components."""
        experts = dict(zip(self.experts, self._weights, strict=True))
        return Factored(experts, tuple(self.shapes), self._centre, self._base, self.dtype, self.device, "component")

    @override
    def part(self, rows: Mapping[str, slice]) -> "Factored":
        sources = (*self._weights, self._centre, self._base)
        every = {id(w): w.some_rows(rows) if isinstance(w, Adapted) else SomeRows(w, rows) for w in sources}
        experts = {name: every[id(one)] for name, one in zip(self.experts, self._weights, strict=True)}
        centre, base = every[id(self._centre)], every[id(self._base)]
        return Factored(experts, list(rows), centre, base, self.dtype, self.device, self.per)

    def source(self, expert: str) -> Weights:
        """Return the weights whose difference from the centre is a task vector."""
        return self._weights[self.experts.index(expert)]

    def ranks(self, name: str) -> dict[str, int]:
        """Return the rank of one parameter's factors by expert; experts without factors are absent."""
        terms = self._terms(name)
        return {self.experts[k]: one.left.shape[-1] for k, one in (*terms.low, *terms.blocks)}

    @override
    def centre_of(self, bundle: Bundle) -> Tensor:
        (name,) = bundle
        return as_matrix(self._centre[name])

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        sources = [one.digest(file) for one in (*self._weights, self._centre, self._base)]
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
                weights = table[grouping.of(bundle, self.device)[0]]  # (1 or n, K)
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
    def divides(self, name: str) -> bool:
        return self.per == "row" and not self._terms(name).computed

    @override
    @torch.no_grad()
    def combine_exactly(self, name: str, coefficients: Coefficients, groups: Tensor) -> Tensor:
        terms, table = self._terms(name), coefficients.detach().cpu().double()
        sources = {str(k): weights for k, weights in terms.whole.items()}
        sources |= {str(k): self._weights[k] for k in terms.computed}
        columns = [table[:, int(k)] for k in sources]
        if self._centre is not self._base:  # else the rest, 1 − Σ of the whole ones, is the base's
            sources["base"] = self._base
            columns.append(table[:, terms.on_base].sum(1))
        total = self._centre[name].double()
        weights = table[groups.cpu()]  # (1 or n, K)
        if sources:
            dense = Mapped(sources, [name], self._centre, self._centre, torch.float64)
            total = dense.combine_exactly(name, torch.stack(columns, 1), whole_weights(self.per, groups))
        for k, one in (*terms.low, *terms.blocks):
            if weights[:, k].any():
                left = weighted_left(self.per, one, one.left.double(), weights[:, k])
                total = total + (left @ one.right.double()).reshape(total.shape)
        return total

    def factors(self, name: str) -> dict[int, LowRank] | None:
        """Read the factors of every expert that changes a parameter, by its column.

        Returns:
            None if a task vector is no product of factors: of a complete checkpoint, DoRA, or over another centre.
        """
        terms = self._terms(name)
        others = terms.blocks or terms.whole or terms.computed
        return dict(terms.low) if self._centre is self._base and not others else None

    @override
    def norms(self, name: str) -> Tensor:
        factors = self.factors(name)
        if factors is None:
            return super().norms(name)
        squares = [factors[k].square() if k in factors else 0.0 for k in range(len(self.experts))]
        return torch.tensor(squares, dtype=self.dtype, device=self.device).sqrt()

    @override
    @torch.no_grad()
    def squares(self, name: str, centre: Tensor) -> Tensor:
        """Compute ‖W + s·B A‖² = ‖W‖² + 2⟨W, s·B A⟩ + s²·Σ (B A Aᵀ) ⊙ B, row by row."""
        factors = self.factors(name)
        if factors is None or self.per != "row":
            return super().squares(name, centre)
        with full_precision(self.device):
            total = centre.square().sum(1, keepdim=True) + 2 * self._products_of(name, centre)
            for k, one in factors.items():
                left, right = self._own(one.left), self._own(one.right)
                total[:, k] += one.scale**2 * ((left @ (right @ right.T)) * left).sum(1)
        return total

    def _merge_one(self, merged: Tensor, name: str, weights: Tensor) -> None:
        """Add weighted task vectors to one parameter (R, M), given the weights of the whole (1, K), or of its parts."""
        terms = self._terms(name)
        whole = whole_weights(self.per, weights)  # (1 or R, K)
        for sources, columns in self._whole(name, terms):
            dense = torch.stack([whole[:, own].sum(1) for own in columns], 1)  # (1 or R, K')
            dense = dense.expand(len(merged), -1).unsqueeze(1)  # (R, 1, K')
            for rows, part, stack in differences(sources, as_matrix(self._centre[name]), self._scratch):
                merged[rows, part].unsqueeze(1).baddbmm_(dense[rows], stack.transpose(0, 1))
        for pack in packs(terms.low, self._most(merged)):
            left = torch.cat([weighted_left(self.per, one, self._own(one.left), weights[:, k]) for k, one in pack], 1)
            merged.addmm_(left, torch.cat([self._own(one.right) for _, one in pack]))
        for k, one in terms.blocks:
            left = weighted_left(self.per, one, self._own(one.left), weights[:, k])
            merged.view(self.shapes[name]).baddbmm_(left, self._own(one.right))

    def _products_of(self, name: str, gradient: Tensor) -> Tensor:
        """Compute ⟨gradient, τₖ⟩ by row or by component, (n, K), of one parameter's gradient (R, M)."""
        terms = self._terms(name)
        products = gradient.new_zeros(self._count(gradient, terms), len(self.experts))
        for sources, columns in self._whole(name, terms):
            for rows, part, stack in differences(sources, as_matrix(self._centre[name]), self._scratch):
                found = torch.bmm(gradient[rows, part].unsqueeze(1), stack.permute(1, 2, 0)).squeeze(1)  # (r, K')
                for own, values in zip(columns, found.unbind(1), strict=True):
                    for k in own:
                        add_whole(self.per, products[:, k], rows, values)
        for pack in packs(terms.low, self._most(gradient)):
            rights = torch.cat([self._own(one.right) for _, one in pack])  # (Σr, M)
            projected, start = gradient @ rights.T, 0  # (R, Σr)
            for k, one in pack:
                part = projected[:, start : start + len(one.right)]
                add_products(self.per, products[:, k], one.scale * part * self._own(one.left))
                start += len(one.right)
        for k, one in terms.blocks:
            part = gradient.view(self.shapes[name]) @ self._own(one.right).mT  # (E, R, r)
            add_products(self.per, products[:, k], one.scale * part * self._own(one.left))
        return products

    def _count(self, gradient: Tensor, terms: _Terms) -> int:
        """Count the rows, or the components, of a parameter."""
        if self.per == "row":
            return len(gradient)
        return max((one.left.shape[-1] for _, one in (*terms.low, *terms.blocks)), default=1)

    def _most(self, matrix: Tensor) -> int:
        """Bound the sum of ranks of one product, so that it takes no more memory with more experts."""
        return max(1, 2 * SCRATCH // max(matrix.shape))

    def _terms(self, name: str) -> _Terms:
        terms = _Terms([], [], {}, [], [])
        for k, weights in enumerate(self._weights):
            change = weights.change(name) if isinstance(weights, Adapted) else None
            if weights is self._base:
                terms.on_base.append(k)
                continue
            if not isinstance(weights, Adapted) or name in weights.own:
                terms.whole[k] = weights
                continue
            factors = change.factors() if change is not None else None
            if change is not None and factors is None:
                terms.computed.append(k)
                continue
            if weights.over_base:
                terms.on_base.append(k)
            else:
                terms.whole[k] = weights.base
            if factors is not None:
                (terms.low if factors.left.ndim == 2 else terms.blocks).append((k, factors))
        return terms

    def _whole(self, name: str, terms: _Terms) -> Iterator[tuple[list[Tensor], list[list[int]]]]:
        """Yield whole tensors whose differences from the centre count, and the columns that each counts for.

        Those in files come together, those that are computed one at a time. Over a centre that is not the base, an
        adapter's task vector is (base − centre) + scale · B A.
        """
        sources = [as_matrix(weights[name]) for weights in terms.whole.values()]
        columns = [[k] for k in terms.whole]
        if self._centre is not self._base and terms.on_base:
            sources.append(as_matrix(self._base[name]))
            columns.append(terms.on_base)
        if sources:
            yield sources, columns
        for k in terms.computed:
            yield [as_matrix(self._weights[k][name])], [[k]]

    def _windows(self, name: str) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield dense task vectors of all experts, for what needs them: a window of rows and columns at a time."""
        terms = self._terms(name)
        low, count = dict((*terms.low, *terms.blocks)), len(self.experts)
        centre, base = as_matrix(self._centre[name]), as_matrix(self._base[name])
        whole = {k: as_matrix(weights[name]) for k, weights in terms.whole.items()}
        whole |= {k: as_matrix(self._weights[k][name]) for k in terms.computed}
        for r, m in windows(*matrix_shape(self.shapes[name]), len(self._scratch) // count):
            origin = self._own(centre[r, m])
            stack = self._scratch[: count * origin.numel()].view(count, *origin.shape)
            for k, vector in enumerate(stack):
                source = whole.get(k, base)
                torch.sub(self._own(source[r, m]), origin, out=vector)
                if k in low:
                    left, right = low[k].window(r, m)
                    product = (self._own(left) @ self._own(right)).flatten(1)
                    vector.add_(product[:, low[k].columns(m)], alpha=low[k].scale)
            yield r, m, stack

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)
