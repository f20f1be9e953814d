"""Methods that make one update of all experts, matrix by matrix; vectors are averaged."""

from abc import abstractmethod

from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.transform import (
    MERGED,
    CoreTransform,
    Stacks,
    TensorTransform,
    Transform,
    is_matrix,
    matrices,
)


class MatrixMerge(Transform):
    """One update of all experts per matrix. Scalars and vectors (biases, norms) get the mean of the task vectors.

    An embedding is a matrix like any other, a convolution the matrix of its output channels, each matrix of a mixture's
    experts one by itself. Methods whose size is settled have the coefficient 1.
    """

    @abstractmethod
    def update(self, stack: Tensor, shape: tuple[int, int]) -> Tensor:
        """Compute the update of one matrix.

        Args:
            stack: (K, R, M), or cores of it (K, p, q) between orthonormal bases.
            shape: (R, M).

        Returns:
            (R, M), or (p, q).
        """

    @property
    def by_matrix(self) -> bool:
        """True: it is a method of matrices."""
        return True

    @property
    def coefficient(self) -> float:
        """1."""
        return 1.0

    @property
    def core(self) -> CoreTransform | None:
        """The update of the cores."""
        return lambda cores, shape: self.update(cores, shape).unsqueeze(0)

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Return the merge of one tensor; nothing is gathered. See `Transform.plan`."""

        def merge(name: str, stack: Tensor) -> Tensor:
            if not is_matrix(stack):
                return stack.mean(0, keepdim=True)
            flat = matrices(stack)
            return self.update(flat, (flat.shape[1], flat.shape[2])).reshape(1, *stack.shape[1:])

        return merge

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the name of the one merged update; see `Transform.experts`."""
        return MERGED
