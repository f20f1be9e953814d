"""ACTMat: least squares on each layer's outputs, with task vectors in place of the layer's inputs."""

from dataclasses import dataclass

from torch import Tensor

from adamerge.transforms.matrix_merge import MatrixMerge
from adamerge.transforms.thin_svd import eigenpairs
from adamerge.transforms.transform import require
from adamerge.transforms.wudi import normal_equations
from adamerge.types import check_types


def act_mat(stack: Tensor, ridge: float = 0.0, width: int | None = None) -> Tensor:
    """Minimise Σₖ tr((U - τₖ) Gₖ (U - τₖ)ᵀ): RegMean with Gₖ = τₖᵀτₖ for the second moments of the inputs.

    U = (Σₖ τₖGₖ) (ΣG + hI)⁺, h = ridge · tr(ΣG)/M. The rows of a task vector are sums of the inputs that it was trained
    on, so that τₖᵀτₖ is large where they were. All experts weigh the same; with a negative weight there would be no
    minimum. The pseudo-inverse is of float64, because Gram matrices square the condition number; eigenvalues that are
    zero up to rounding stay zero.

    Args:
        stack: (K, R, M).
        ridge: share of the mean eigenvalue, at least 0.
        width: number of eigenvalues that the mean is over; by default M.

    Returns:
        (R, M), the solution of least norm for a ridge of 0.

    Reference:
        arXiv 2604.01329 (ACTMat).

    Example:
        >>> import torch
        >>> act_mat(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]))
        tensor([[1., 2.]])
    """
    gram, target = normal_equations(stack, normalised=False)
    values, vectors = eigenpairs(gram)
    shift = ridge * gram.trace() / (width or len(gram))
    return ((target @ vectors / (values + shift)) @ vectors.T).to(stack.dtype)


@dataclass(frozen=True)
class ActMat(MatrixMerge):
    """ACTMat: one update of all experts; vectors are averaged. It has no scale to choose, so the coefficient is 1.

    Attributes:
        ridge: as a share of the mean eigenvalue; 0, the pseudo-inverse, is published.

    Raises:
        ConfigError: on a negative ridge.
    """

    ridge: float = 0.0

    def __post_init__(self) -> None:
        """Check the option."""
        check_types(self)
        require(self.ridge >= 0, "ridge", "a number of at least 0", self.ridge)

    def update(self, stack: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return ACTMat's update, with the ridge of the whole matrices."""
        return act_mat(stack, self.ridge, shape[1])
