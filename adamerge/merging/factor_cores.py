"""Task vectors of adapters in the small space that their factors span: exact, R³ instead of n³ for Σr = R."""

from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.merging.factor_algebra import column_basis
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.task_vectors import matrix_shape

CHEAPER = 2
"""The space is used where the sides of a matrix are at least that many times as long as it is wide."""


class Cores(NamedTuple):
    """Task vectors τₖ = Q Cₖ Pᵀ of one parameter, fp64.

    Attributes:
        left: Q, (R, p), orthonormal columns.
        cores: Cₖ, (K, p, q).
        right: P, (M, q), orthonormal columns.
    """

    left: Tensor
    cores: Tensor
    right: Tensor


@torch.no_grad()
def cores_of(vectors: Factored, name: str) -> Cores | None:
    """Project task vectors onto the spaces of their factors; None where an expert has no factors, or it costs more.

    Args:
        vectors: Task vectors.
        name: The parameter.

    Reference:
        Panariello, Marczak, Magistri et al., Accurate and Efficient Low-Rank Model Merging in Core Space, NeurIPS 2025.
    """
    factors = vectors.factors(name)
    if not factors:
        return None
    rank = sum(len(one.right) for one in factors.values())
    if CHEAPER * rank > min(matrix_shape(vectors.shapes[name])):
        return None
    own = {k: [part.to(vectors.device, torch.float64) for part in (f.left, f.right)] for k, f in factors.items()}
    left = column_basis([one for one, _ in own.values()])
    right = column_basis([one.T for _, one in own.values()])
    if not left.numel() or not right.numel():
        return None
    cores = left.new_zeros(len(vectors.experts), left.shape[1], right.shape[1])
    for k, (first, second) in own.items():
        cores[k] = factors[k].scale * (left.T @ first) @ (second @ right)
    return Cores(left, cores, right)
