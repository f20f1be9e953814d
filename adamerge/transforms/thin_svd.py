"""Singular and eigenvectors by Gram matrices, in float64."""

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
    energy, left = eigenpairs(wide @ wide.T)
    sigma = energy.sqrt()
    return left, sigma, wide.T @ left / sigma


def eigenpairs(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose a Gram matrix over the eigenvalues that are not zero up to rounding; see `RESOLUTION`.

    Args:
        gram: (M, M), symmetric, positive semidefinite, float64.

    Returns:
        Eigenvalues (r,), descending, and eigenvectors (M, r).

    Example:
        >>> values, vectors = eigenpairs(torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double())
        >>> values.tolist(), vectors.abs().tolist()
        ([4.0, 1.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    nonzero = values > RESOLUTION**2 * values[:1].clamp(min=0)
    return values[nonzero], vectors[:, nonzero]


def leading_parts(stack: Tensor, full: int | None = None) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Decompose each task vector, and keep its max(1, ⌊r/K⌋) leading components, r = min(R, M).

    Args:
        stack: (K, R, M).
        full: r; by default min(R, M).

    Returns:
        K of U (R, rₖ), of s (rₖ,) and of V (M, rₖ), float64; rₖ is less where a task vector has a lower rank.

    Example:
        >>> lefts, sigmas, rights = leading_parts(torch.diag(torch.tensor([1.0, 2.0])).repeat(2, 1, 1))
        >>> [sigma.tolist() for sigma in sigmas], rights[0].shape
        ([[2.0], [2.0]], torch.Size([2, 1]))
    """
    rank = max(1, (full or min(stack.shape[1:])) // len(stack))
    lefts, sigmas, rights = zip(
        *(tuple(factor[..., :rank] for factor in thin_svd(expert)) for expert in stack), strict=True
    )
    return list(lefts), list(sigmas), list(rights)


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
