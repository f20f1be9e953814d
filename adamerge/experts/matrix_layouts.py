"""How parameters hold the matrices of their layers: stacks of a mixture's experts, transposed, gate and up in one."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_GATED = "gate_up_proj"
"""transformers' name of the parameter that holds the matrices of gate and up of every expert."""


class Layout(NamedTuple):
    """How a parameter holds the matrices (R, M), output × input, of its layers.

    Attributes:
        stacked: Whether its first dimension counts the experts of a mixture.
        transposed: Whether it holds input × output.
        parts: Number of matrices that share the output dimension: 2 for gate and up.
        interleaved: Whether rows of these alternate, instead of one following the other.
        experts: Number of experts whose matrices follow each other in the first dimension (DBRX); 0 if they do not.

    Example:
        >>> import torch
        >>> both = torch.arange(6.0).reshape(1, 1, 2, 3)  # (K, E, M, R): three rows of two inputs
        >>> [piece.tolist() for piece in Layout(True, True, 3).split(both)]
        [[[[0.0, 3.0]]], [[[1.0, 4.0]]], [[[2.0, 5.0]]]]
    """

    stacked: bool = False
    transposed: bool = False
    parts: int = 1
    interleaved: bool = False
    experts: int = 0

    def split(self, stack: Tensor) -> list[Tensor]:
        """View the matrices of all experts of the mixture one by one, each of all models, (K, R, M).

        Args:
            stack: One parameter of K models, (K, *shape); writing into the views writes into it.
        """
        by_expert = stack.unbind(1) if self.stacked else stack.chunk(self.experts, 1) if self.experts else (stack,)
        matrices = [matrix.mT if self.transposed else matrix for matrix in by_expert]
        return [part for matrix in matrices for part in self._parts(matrix)]

    def _parts(self, matrix: Tensor) -> list[Tensor]:
        if self.interleaved:
            return [matrix[:, part :: self.parts] for part in range(self.parts)]
        return list(matrix.chunk(self.parts, 1)) if self.parts > 1 else [matrix]


Layouts: TypeAlias = Mapping[str, Layout]
"""Layouts by name of the parameter; those that hold one matrix (R, M), or no matrix, are absent."""


def layouts_of(module: nn.Module) -> dict[str, Layout]:
    """Find the parameters of a module that hold several matrices, or one that is transposed.

    transformers says of most mixtures how they hold their experts (`is_transposed`, `is_concatenated`); of others
    (Llama 4) the shapes tell: gate and up are as long as down is wide.

    Args:
        module: The module; its parameters may be on the meta device.

    Returns:
        Layouts by name.

    Example:
        >>> layouts_of(nn.Sequential(Conv1D(4, 2), nn.Linear(2, 4)))
        {'0.weight': Layout(stacked=False, transposed=True, parts=1, interleaved=False, experts=0)}
    """
    found: dict[str, Layout] = {}
    for path, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            layout = _layout(part, name, parameter)
            if layout is not None:
                found[f"{path}.{name}".lstrip(".")] = layout
    return found


def _layout(part: nn.Module, name: str, parameter: Tensor) -> Layout | None:
    if isinstance(part, Conv1D) and name == "weight":
        return Layout(transposed=True)
    if in_a_row(part) and parameter.ndim == 2:
        return Layout(transposed=name == "w2", experts=part.moe_num_experts)  # pyright: ignore[reportArgumentType]
    if not _holds_experts(part) or parameter.ndim < 2:
        return None
    parts = 2 if name.startswith(_GATED) else 1
    interleaved = parts > 1 and not getattr(part, "is_concatenated", True)
    if parameter.ndim == 2:  # biases: the matrices of a mixture that stacks nothing have modules of their own
        return Layout(True, False, parts, interleaved) if name.endswith("bias") else None
    return Layout(True, _is_transposed(part), parts, interleaved)


def _holds_experts(part: nn.Module) -> bool:
    """Return whether the parameters of a module are stacks over the experts of a mixture."""
    stacks = [p for p in part.parameters(recurse=False) if p.ndim == 3 and p.shape[0] > 1]
    known = hasattr(part, "is_transposed") or "Expert" in type(part).__name__
    return bool(stacks) and (known or isinstance(getattr(part, _GATED, None), nn.Parameter))


def in_a_row(part: nn.Module) -> bool:
    """Return whether the matrices of a mixture's experts follow each other in one matrix, as in DBRX.

    Each is inner × outer numbers: the first two are output × input (w1, v1), the last input × output (w2).
    """
    count, inner = (getattr(part, name, None) for name in ("moe_num_experts", "ffn_hidden_size"))
    own = [p for p in part.parameters(recurse=False) if p.ndim == 2]
    return isinstance(count, int) and isinstance(inner, int) and {p.shape[0] for p in own} == {count * inner}


def _is_transposed(part: nn.Module) -> bool:
    known = getattr(part, "is_transposed", None)
    if isinstance(known, bool):
        return known
    gate, down = (getattr(part, name, None) for name in (_GATED, "down_proj"))
    if not isinstance(gate, Tensor) or not isinstance(down, Tensor):
        return False
    return gate.shape[1] == down.shape[2] and gate.shape[2] == 2 * down.shape[1]
