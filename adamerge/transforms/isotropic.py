"""Iso-C: the summed update with a flat spectrum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.thin_svd import thin_svd
from adamerge.transforms.transform import MERGED, CoreTransform, Stacks, TensorTransform, Transform, is_matrix, matrices


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
class Isotropic(Transform):
    """Iso-C: one update whose singular values are all equal; vectors are averaged.

    The paper chooses the coefficient on validation data, near 1.
    """

    @property
    def by_matrix(self) -> bool:
        """True: it is a method of matrices."""
        return True

    @property
    def coefficient(self) -> float:
        """1, as published."""
        return 1.0

    @property
    def core(self) -> CoreTransform:
        """Iso-C of the sum of the cores; bases do not change singular values."""
        return lambda cores, shape: isotropic(cores.sum(0)).unsqueeze(0)

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Return the merge of one tensor; nothing is gathered. See `Transform.plan`."""

        def merge(name: str, stack: Tensor) -> Tensor:
            if not is_matrix(stack):
                return stack.mean(0, keepdim=True)
            return isotropic(matrices(stack).sum(0)).reshape(1, *stack.shape[1:])

        return merge

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the name of the one merged update; see `Transform.experts`."""
        return MERGED
