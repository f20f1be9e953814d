"""Changes of weights by adapters: pure functions from an adapter's tensors and the base's tensor to the expert's."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adamerge.experts.low_rank import Change, Dense, LowRank
from adamerge.storage.weights import Weights

Layout: TypeAlias = Literal["B A", "(B A)ᵀ", "(A B)ᵀ", "A B"]
"""How factors make a weight: of a linear layer or convolution, and of PEFT's embeddings and Conv1D; of linear layers,
and of embeddings and Conv1D, as mlx-lm has them."""


_NOT_OF_MLX = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


def read(tensors: Weights, a: str, b: str, scale: float, layout: Layout) -> LowRank:
    """Read factors from their file."""
    first, second = tensors[a].flatten(1), tensors[b].flatten(1)
    match layout:
        case "B A":
            return LowRank(second, first, scale)
        case "(B A)ᵀ":
            return LowRank(first.T, second.T, scale)
        case "(A B)ᵀ":
            return LowRank(second.T, first.T, scale)
        case "A B":
            return LowRank(first, second, scale)


def layout_of(owner: nn.Module, *, mlx: bool) -> Layout | None:
    """Return how the factors of a module make its weight; the module decides, since options in the file may not.

    mlx-lm has Conv1D as a linear layer, whose weight (outputs, inputs) gets + (A B)ᵀ; transformers holds (inputs,
    outputs), to which A B is added. It has no factors for convolutions and nn.MultiheadAttention: None.

    Example:
        >>> layout_of(nn.Linear(2, 3), mlx=False), layout_of(nn.Embedding(2, 3), mlx=False)
        ('B A', '(B A)ᵀ')
    """
    if isinstance(owner, (nn.Embedding, Conv1D)):
        return "A B" if mlx else "(B A)ᵀ"
    if mlx:
        return None if isinstance(owner, _NOT_OF_MLX) else "(A B)ᵀ"
    return "B A"


def outputs_of(owner: nn.Module, layout: Layout) -> int:
    """Return the dimension of a weight along which DoRA has magnitudes.

    That of the outputs; PEFT has those of embeddings per channel, mlx-lm per token.
    """
    return 1 if layout == "(B A)ᵀ" or isinstance(owner, Conv1D) else 0


def factor_shapes(a: torch.Size, b: torch.Size, layout: Layout) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes of (left, right) without reading."""
    first, second = _flat(a), _flat(b)
    match layout:
        case "B A":
            return second, first
        case "(B A)ᵀ":
            return _turned(first), _turned(second)
        case "(A B)ᵀ":
            return _turned(second), _turned(first)
        case "A B":
            return first, second


def _flat(shape: torch.Size) -> tuple[int, int]:
    rows = shape[0] if shape else 0
    return rows, shape.numel() // max(rows, 1)


def _turned(shape: tuple[int, int]) -> tuple[int, int]:
    return shape[1], shape[0]


def replaced(value: Tensor, base: Tensor) -> Tensor:
    """Replace a tensor by one that was trained whole."""
    return value.to(base.dtype)


def shifted(shift: Tensor, trained: Dense | None, base: Tensor) -> Tensor:
    """Add scale · b of a bias of factors to a bias, which may itself be trained."""
    return (trained(base) if trained else base) + shift


def plus(low_rank: Callable[[], LowRank], base: Tensor) -> Tensor:
    """Add the product of factors."""
    return low_rank().dense(base.shape, base.dtype).add_(base)


def with_rows(rows: Tensor, values: Tensor, base: Tensor) -> Tensor:
    """Replace rows of an embedding by those that were trained."""
    return base.index_copy(0, rows, values.to(base.dtype))


def dora(low_rank: Callable[[], LowRank], magnitude: Tensor, base: Tensor, *, outputs: int) -> Tensor:
    """Compute W' = m · (W + ΔW) / ‖W + ΔW‖ per output; `outputs` is the weight's dimension of outputs.

    Reference:
        Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024.
    """
    whole = plus(low_rank, base)
    others = [dim for dim in range(whole.ndim) if dim != outputs]
    norm = torch.linalg.vector_norm(whole, dim=others, keepdim=True)
    return whole * (magnitude.to(base.dtype).reshape(norm.shape) / norm)


def applied(change: Change, base: Tensor) -> Tensor:
    """Return the expert's tensor."""
    if change.dense is not None:
        return change.dense(base)
    assert change.low_rank is not None
    return plus(change.low_rank, base)


def alike(one: Change, other: Change) -> bool:
    """Return whether two changes have equal factors, as those of both sides of embeddings that were trained tied."""
    if one.low_rank is None or other.low_rank is None:
        return False
    first, second = one.low_rank(), other.low_rank()
    sides = ((first.left, second.left), (first.right, second.right))
    return first.scale == second.scale and all(torch.equal(a, b) for a, b in sides)


def fused_layout(
    a: torch.Size, b: torch.Size, shape: torch.Size, transposed: bool
) -> Literal["(E, out, in)", "(E, in, out)"] | None:
    """Find how the factors of `target_parameters` lie in a parameter of three dimensions.

    Args:
        a: Shape of lora_A, (r·E, in).
        b: Shape of lora_B, (out, r·E).
        shape: Shape of the parameter.
        transposed: Whether its module stores it as (E, in, out); decides where both would fit.

    Returns:
        The parameter's layout; None if the factors do not fit.
    """
    count, *sides = shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] % count or a[0] == 0:
        return None
    fits = [(b[0], a[1]) == tuple(sides), (a[1], b[0]) == tuple(sides)]
    if fits[0] and not (fits[1] and transposed):
        return "(E, out, in)"
    return "(E, in, out)" if fits[1] else None


def fused(tensors: Weights, a: str, b: str, scale: float, count: int, layout: str) -> LowRank:
    """Read the factors of all experts of a mixture; the expert's index is outer in A and inner in B.

    Args:
        tensors: The adapter's tensors.
        a: Name of lora_A, (r·E, in).
        b: Name of lora_B, (out, r·E).
        scale: α/r or α/√r.
        count: E.
        layout: See `fused_layout`.
    """
    first = tensors[a].view(count, -1, tensors.shape(a)[1])  # (E, r, in)
    second = tensors[b].view(tensors.shape(b)[0], -1, count)  # (out, r, E)
    if layout == "(E, out, in)":
        return LowRank(second.permute(2, 0, 1), first, scale)
    return LowRank(first.mT, second.permute(2, 1, 0), scale)
