"""Task vectors of adapters in the small space that their factors span: exact, R³ instead of n³ for Σr = R."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from adamerge.experts.low_rank import LowRank
from adamerge.merging.factor_algebra import column_basis
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.matrices import matrix_shape

CHEAPER = 2
"""The space is used where the sides of a matrix are at least that many times as long as it is wide."""


ROWS_AT_ONCE = 2**20
"""Elements of the factors of a layer's rows that are multiplied by one another at once."""


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


def gram_products(factors: Mapping[int, LowRank], rows: int, count: int, gram: Tensor) -> Tensor:
    """Compute τⱼ[r] G τₗ[r]ᵀ = sⱼ Bⱼ[r] (Aⱼ G Aₗᵀ) Bₗ[r]ᵀ sₗ for every row and pair of experts.

    Args:
        factors: Factors by the expert's column; the task vectors of the others are zero.
        rows: R.
        count: Number of experts, K.
        gram: G, (D, D), symmetric.

    Returns:
        The products, (R, K, K), fp64 on the CPU.
    """
    products = torch.zeros(rows, count, count, dtype=torch.float64)
    if not factors:
        return products
    rights = torch.cat([one.right.to(gram) for one in factors.values()])  # (Σr, D)
    small = rights @ gram @ rights.T
    owners = torch.tensor([k for k, one in factors.items() for _ in range(len(one.right))])
    step = max(1, ROWS_AT_ONCE // len(owners))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        left = torch.cat([one.scale * one.left[part].to(gram) for one in factors.values()], 1)  # (r, Σr)
        for k in factors:
            own = owners == k
            pairs = (left[:, own] @ small[own]) * left
            products[part, k].index_add_(1, owners, pairs.double().cpu())
    return products
