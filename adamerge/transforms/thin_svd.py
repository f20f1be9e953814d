"""Singular vectors by the smaller Gram matrix, in float64."""

import torch
from torch import Tensor

RESOLUTION = 1e-6
"""Singular values below this share of the largest are rounding of fp32 weights, and count as zero."""


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose A = U diag(s) Vᵀ over the nonzero singular values, by an eigendecomposition of the smaller Gram.

    Float64 throughout, since a Gram squares the condition number; a matrix 384 by 30522 costs an `eigh` of 384.

    Args:
        matrix: (R, M).

    Returns:
        U (R, r), s (r,) descending, V (M, r), float64, r the numerical rank; r = 0 for a zero matrix.

    Example:
        >>> U, s, V = thin_svd(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
        >>> s
        tensor([4., 3.], dtype=torch.float64)
        >>> (U * s @ V.T).round().int().tolist()
        [[3, 0, 0], [0, 4, 0]]
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, sigma, left = thin_svd(matrix.T)
        return left, sigma, right
    wide = matrix.double()  # (R, M), R ≤ M
    energy, vectors = torch.linalg.eigh(wide @ wide.T)
    energy, vectors = energy.flip(0).clamp(min=0), vectors.flip(1)
    nonzero = energy > RESOLUTION**2 * energy[:1]
    sigma, left = energy[nonzero].sqrt(), vectors[:, nonzero]
    return left, sigma, wide.T @ left / sigma


def polar(matrix: Tensor) -> Tensor:
    """Find the nearest matrix with orthonormal rows or columns: U Vᵀ, the solution of the Procrustes problem.

    Args:
        matrix: (R, M).

    Returns:
        (R, M) float64; a partial isometry where A lacks rank: null directions stay null.

    Example:
        >>> polar(torch.diag(torch.tensor([2.0, 5.0]))).round().int().tolist()
        [[1, 0], [0, 1]]
    """
    left, _, right = thin_svd(matrix)
    return left @ right.T
