"""TSV-M: the leading singular vectors of each task, made orthogonal to those of the others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.thin_svd import leading_parts, polar
from adamerge.transforms.transform import CoreTransform, Stacks, TensorTransform, Transform, is_matrix, matrices


def task_singular_vectors(stack: Tensor, full: int | None = None) -> Tensor:
    """Reduce each task to rank r/K and orthogonalise the singular vectors across tasks.

    τₖ ≈ Uₖ diag(sₖ) Vₖᵀ with max(1, ⌊r/K⌋) components, r = min(R, M). The concatenations U = [U₁ … U_K] and V are
    replaced by their nearest orthogonal matrices U⊥ and V⊥ (Procrustes); expert k's part is U⊥ₖ diag(sₖ) V⊥ₖᵀ, and
    the plain sum of the parts is the merged update.

    Args:
        stack: (K, R, M).
        full: r; by default min(R, M).

    Returns:
        (K, R, M); zero for a zero task vector. Identical experts share their directions: the sum is one of them.

    Reference:
        Gargiulo, Crisostomi, Bucarelli, Scardapane, Silvestri, Rodolà, "Task Singular Vectors: Reducing Task
        Interference in Model Merging", CVPR 2025 (TSV-Merge).

    Example:
        >>> stack = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 3.0]]])
        >>> task_singular_vectors(stack).sum(0).round(decimals=4)
        tensor([[2., 0.],
                [0., 3.]])
    """
    lefts, sigmas, rights = leading_parts(stack, full)
    widths = [len(sigma) for sigma in sigmas]
    left = polar(torch.cat(lefts, 1)).split(widths, 1)  # K of (R, rank)
    right = polar(torch.cat(rights, 1)).split(widths, 1)  # K of (M, rank)
    merged = [u * sigma @ v.T for u, sigma, v in zip(left, sigmas, right, strict=True)]
    return torch.stack(merged).to(stack.dtype)


@dataclass(frozen=True)
class TaskSingularVectors(Transform):
    """TSV-M, one output per expert; vectors are averaged (each output is τₖ/K). The published coefficient is 1."""

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
        """TSV-M of the cores, with as many components as the whole matrices get."""
        return lambda cores, shape: task_singular_vectors(cores, min(shape))

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Return the split of one tensor; nothing is gathered. See `Transform.plan`."""

        def split(name: str, stack: Tensor) -> Tensor:
            if not is_matrix(stack):
                return stack / len(stack)
            return task_singular_vectors(matrices(stack)).reshape(stack.shape)

        return split

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
