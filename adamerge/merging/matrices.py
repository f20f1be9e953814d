"""Parameters as matrices: their output channels are the rows."""

import torch
from torch import Tensor


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """Reshape a parameter to a matrix: (R, M), R output channels; a vector or a scalar is one row.

    Example:
        >>> matrix_shape(torch.Size([64, 3, 7, 7])), matrix_shape(torch.Size([64]))
        ((64, 147), (1, 64))
    """
    rows = shape[0] if len(shape) > 1 else 1
    return rows, shape.numel() // rows


def as_matrix(tensor: Tensor) -> Tensor:
    """View a parameter as a matrix, (R, M)."""
    return tensor.reshape(matrix_shape(tensor.shape))
