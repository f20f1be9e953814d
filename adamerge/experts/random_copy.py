"""A randomly initialised copy of a model, to find out how its class treats rows without reading any weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adamerge.experts.from_modules import emptied

LARGEST = 2**30
"""Number of parameters above which no copy is made."""

_LARGE = 2**22
"""Number of elements above which a matrix is filled with the same numbers at every diagonal."""

_BLOCKS = 2


def shortened(module: nn.Module) -> nn.Module:
    """Copy a module, without parameters, and keep two blocks of every list of blocks of one class.

    Example:
        >>> blocks = nn.Sequential()
        >>> blocks.layers = nn.ModuleList([nn.Linear(1, 1) for _ in range(12)])
        >>> len(shortened(blocks).layers)
        2
    """
    short = emptied(module)
    for part in list(short.modules()):
        if isinstance(part, nn.ModuleList) and len({type(block) for block in part}) == 1:
            del part[_BLOCKS:]
    return short


def random_state(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Draw parameters for a module: weights keep the size of what passes through, blocks of one kind are equal.

    Matrices have the variance 1 / (inputs per output), biases are small, other vectors are near 1. A very large matrix,
    such as the embeddings of a large vocabulary, has equal diagonals: it takes the memory of a row and a column.

    Args:
        module: The module; its parameters may be on the meta device.
        seed: Random seed.

    Returns:
        Parameters by name.

    Example:
        >>> {name: tuple(tensor.shape) for name, tensor in random_state(nn.Linear(3, 2)).items()}
        {'weight': (2, 3), 'bias': (2,)}
    """
    draw = torch.Generator().manual_seed(seed)
    drawn: dict[tuple[str, torch.Size], Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        kind = (unnumbered(name), parameter.shape)
        if kind not in drawn:
            drawn[kind] = _drawn(name, parameter.shape, draw)
        state[name] = drawn[kind]
    return state


def unnumbered(name: str) -> str:
    """Leave the numbers of blocks out of a name, so that those of all blocks are alike.

    Example:
        >>> unnumbered("encoder.layer.11.output.weight")
        'encoder.layer.output.weight'
    """
    return ".".join(part for part in name.split(".") if not part.isdigit())


def small(state: Mapping[str, Tensor]) -> frozenset[str]:
    """List the parameters whose elements are stored one by one, so that a forward pass can write into copies of them.

    Example:
        >>> sorted(small(random_state(nn.Linear(3, 2))))
        ['bias', 'weight']
    """
    return frozenset(name for name, tensor in state.items() if tensor.numel() <= _LARGE)


def count(module: nn.Module) -> int:
    """Count the parameters that `random_state` would draw for a module.

    Example:
        >>> count(nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)))
        16
    """
    return sum(parameter.numel() for parameter in module.parameters())


def _drawn(name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
    if len(shape) > 1:
        scale = (shape.numel() // shape[0]) ** -0.5
        if shape.numel() > _LARGE and len(shape) == 2:
            return (torch.randn(shape[0] + shape[1], generator=draw) * scale).as_strided(shape, (1, 1))
        return torch.randn(shape, generator=draw) * scale
    values = 0.1 * torch.randn(shape, generator=draw)
    return values if name.rpartition(".")[2] == "bias" else 1 + values
