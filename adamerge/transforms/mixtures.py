"""Methods of matrices on a mixture's stacked experts: one matrix at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adamerge.transforms.transform import TensorTransform


def is_stack_of_matrices(name: str, shape: Sequence[int]) -> bool:
    """Return whether a parameter stacks the matrices of a mixture's experts, as transformers names and shapes them.

    Weights of convolutions have three dimensions too, and are called weight; position embeddings have one "row".

    Example:
        >>> is_stack_of_matrices("layers.0.mlp.experts.down_proj", (8, 16, 32))
        True
        >>> is_stack_of_matrices("conv.weight", (8, 16, 3)), is_stack_of_matrices("embeddings.cls_token", (1, 1, 16))
        (False, False)
    """
    return len(shape) == 3 and shape[0] > 1 and name.rpartition(".")[2] not in ("weight", "bias")


def by_matrix(transform: TensorTransform) -> TensorTransform:
    """Apply the transform of one tensor to each matrix of a stack; other tensors are transformed whole.

    The rows of a stack are whole matrices: as one matrix it would have a row per expert of the mixture, and WUDI would
    need memory for the square of an expert's size.
    """

    def apply(name: str, stack: Tensor) -> Tensor:
        if not is_stack_of_matrices(name, stack.shape[1:]):
            return transform(name, stack)
        return torch.stack([transform(name, matrix) for matrix in stack.unbind(1)], 1)

    return apply
