"""Products of factors: their singular values and column spaces, without the product itself."""

# pyright: standard

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LOSSLESS = 1e-7
"""Singular values below this share of the largest are rounding of fp32 factors, and are dropped."""


class Svd(NamedTuple):
    """U diag(s) Vᵀ, fp64.

    Attributes:
        left: U, (R, r).
        sigma: s, (r,), descending.
        right: V, (M, r).
    """

    left: Tensor
    sigma: Tensor
    right: Tensor


def svd_of_product(left: Tensor, right: Tensor) -> Svd:
    """Decompose left @ right by QR of both and the SVD of the small R_L R_Rᵀ; values that are rounding are dropped.

    Args:
        left: (R, n).
        right: (n, M).

    Returns:
        At most min(R, n, M) singular values and vectors; the product (R, M) is never computed.

    Example:
        >>> twice = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
        >>> svd_of_product(*twice).sigma
        tensor([10.], dtype=torch.float64)
    """
    outer, small_left = torch.linalg.qr(left.double())
    inner, small_right = torch.linalg.qr(right.double().T)
    u, sigma, vh = torch.linalg.svd(small_left @ small_right.T, full_matrices=False)
    kept = sigma > LOSSLESS * sigma[:1]
    return Svd(outer @ u[:, kept], sigma[kept], inner @ vh[kept].T)


def column_basis(matrices: Sequence[Tensor]) -> Tensor:
    """Find an orthonormal basis of the columns of matrices side by side.

    Args:
        matrices: (R, nᵢ) each.

    Returns:
        (R, n), fp64, n the numerical rank.

    Example:
        >>> column_basis([torch.tensor([[2.0], [0.0]]), torch.tensor([[5.0], [0.0]])]).abs().round()
        tensor([[1.],
                [0.]], dtype=torch.float64)
    """
    units = [one / one.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny) for one in map(Tensor.double, matrices)]
    u, sigma, _ = torch.linalg.svd(torch.cat(units, 1), full_matrices=False)
    return u[:, sigma > LOSSLESS * sigma[:1]]
