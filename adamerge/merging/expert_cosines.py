"""Cosine of a gradient with each whole expert: the score by which FW-Merging's published code selects experts."""

import torch
from torch import Tensor

from adamerge.merging.grouping import Grouping, distinct
from adamerge.merging.matrices import as_matrix
from adamerge.merging.task_vectors import TaskVectors
from adamerge.types import Parameters


class ExpertCosines:
    """Cosines of a gradient with every expert and with the centre, tensor by tensor, summed over a group's tensors.

        score[g, k] = Σ over the tensors p of group g of ⟨∇[p], θₖ[p]⟩ / (‖∇[p]‖·‖θₖ[p]‖),    θₖ = centre + τₖ

    The cosine is with the whole expert θₖ, not its task vector: where the cosine with the centre is far from 0, all
    experts have nearly the same cosine, so it hardly shows which expert would lower the loss. A bias has the same
    weight as a matrix. If the rows of a tensor are in several groups, each group gets the cosine of its own rows.

    Args:
        vectors: Centre and task vectors; their norms are computed here, in one pass over all experts.
        grouping: Grouping of the parameters.

    Reference:
        H. Chen et al., "FW-Merging: scaling model merging with Frank-Wolfe optimization", ICCV 2025, its code.
    """

    def __init__(self, vectors: TaskVectors, grouping: Grouping) -> None:
        self._vectors, self._grouping = vectors, grouping
        self._norms = {name: self._by_group(name, self._squares(name)).sqrt() for name in vectors.shapes}

    @torch.no_grad()
    def __call__(self, gradients: Parameters) -> Tensor:
        """Compute the cosines (G, K + 1), the centre last.

        Args:
            gradients: ∂L/∂merged per parameter; missing ones count as zero.
        """
        vectors, grouping = self._vectors, self._grouping
        total = torch.zeros(
            len(grouping), len(vectors.experts) + 1, dtype=vectors.dtype, device=vectors.device
        )  # (G, K + 1)
        for name, inner in vectors.products(gradients):  # (R, K)
            rows = as_matrix(gradients[name].to(vectors.device, vectors.dtype))  # (R, M)
            centre = (rows * self._centre(name)).sum(1, keepdim=True)  # (R, 1)
            products = torch.cat([centre + inner, centre], 1)  # (R, K + 1)
            size = self._by_group(name, rows.square().sum(1, keepdim=True)).sqrt()  # (g, 1)
            cosines = self._by_group(name, products) / (size * self._norms[name])  # (g, K + 1)
            total.index_add_(0, distinct(grouping.rows[name]).to(total.device), cosines.nan_to_num(0.0))
        return total

    @torch.no_grad()
    def _squares(self, name: str) -> Tensor:
        """Compute the squared norms of the rows of every expert and of the centre, (R, K + 1)."""
        centre = self._centre(name)  # (R, M)
        own = centre.square().sum(1, keepdim=True)  # (R, 1)
        return torch.cat([self._vectors.squares(name, centre), own], 1)

    def _centre(self, name: str) -> Tensor:  # (R, M)
        centre = self._vectors.centre(name).to(self._vectors.device, self._vectors.dtype)
        return as_matrix(centre)

    def _by_group(self, name: str, rows: Tensor) -> Tensor:
        """Sum over the rows of each group of one parameter, (R, n) → (g, n), in the order of the groups."""
        groups = self._grouping.rows[name].to(rows.device)
        if len(groups) == 1:
            return rows.sum(0, keepdim=True)
        found = distinct(groups)
        return rows.new_zeros(len(found), rows.shape[1]).index_add_(0, torch.searchsorted(found, groups), rows)
