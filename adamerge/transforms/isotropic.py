"""Iso-C: the summed update with a flat spectrum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.transforms.matrix_merge import MatrixMerge
from adamerge.transforms.thin_svd import thin_svd


def isotropic(update: Tensor) -> Tensor:
    """Replace all singular values of an update by their mean: mean(s) · U Vᵀ with Σₖ τₖ = U diag(s) Vᵀ.

    The mean is over the nonzero singular values, and null directions stay null (the published code fills them with
    arbitrary singular vectors); for full rank this is the paper's formula.

    Args:
        update: (R, M), the sum of the task vectors.

    Returns:
        (R, M), singular values all equal, same nuclear norm.

    Reference:
        Marczak, Magistri, Cygert, Twardowski, Bagdanov, van de Weijer, "No Task Left Behind: Isotropic Model Merging
        with Common and Task-Specific Subspaces", ICML 2025 (Iso-C).

    Example:
        >>> isotropic(torch.diag(torch.tensor([1.0, 3.0]))).round(decimals=4)
        tensor([[2., 0.],
                [0., 2.]])
    """
    left, sigma, right = thin_svd(update)
    if not len(sigma):
        return torch.zeros_like(update)
    return (sigma.mean() * left @ right.T).to(update.dtype)


@dataclass(frozen=True)
class Isotropic(MatrixMerge):
    """Iso-C: one update whose singular values are all equal; vectors are averaged.

    The paper chooses the coefficient on validation data, near 1.
    """

    def update(self, stack: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return Iso-C of the sum; orthonormal bases do not change singular values."""
        return isotropic(stack.sum(0))
