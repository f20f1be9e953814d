"""Factors of mlx-lm for all experts of a mixture at once, as factors of each expert: what files of transformers hold.

mlx-lm stacks the experts of a mixture in its modules (`switch_mlp.gate_proj`): lora_a is (E, r, in), in old versions
(E·r, in), and lora_b (E, out, r); W[e] += scale · b[e] a[e]. Files of transformers have a matrix for each expert
(`experts.3.gate_proj`, or `experts.3.w1`), and so has its module, or its rules that fuse them.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from adamerge.experts.conversion import places
from adamerge.storage.digest import FileDigest, FileIdentity, digest_of_json
from adamerge.storage.weights import Header, Weights
from adamerge.types import IncompatibleExpertsError

FUSE = "Fuse it into its model with mlx_lm.fuse (--dequantize), and give the complete model"
"""What to do with an adapter of mlx-lm that cannot be read."""

_SWITCH = re.compile(r"(?P<parent>.+)\.[^.]+\.(?P<layer>[^.]+)\.lora_b")
_OTHER_WORDS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
"""What Mixtral and others call the matrices of an expert in their files."""


class _Slice(NamedTuple):
    """One expert's factor: in which tensor it is, and which of how many."""

    name: str
    expert: int
    experts: int


class ByExpert(Weights):
    """An adapter's tensors, those of all experts of a mixture as tensors of each.

    Args:
        source: The adapter's tensors.
        slices: Where each expert's factor is, by name.
    """

    def __init__(self, source: Weights, slices: Mapping[str, _Slice]) -> None:
        self._source, self._slices = source, slices
        hidden = {one.name for one in slices.values()}
        single = {name: header for name, header in source.headers.items() if name not in hidden}
        self._headers = single | {name: _header(source.headers[one.name], one) for name, one in slices.items()}

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._source.files

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        return digest_of_json([sorted(self._slices), self._source.digest(file)])

    def __getitem__(self, name: str) -> Tensor:
        one = self._slices.get(name)
        if one is None:
            return self._source[name]
        stack = self._source[one.name]
        return stack.reshape(one.experts, -1, stack.shape[-1])[one.expert].mT


def _header(header: Header, one: _Slice) -> Header:
    columns = header.shape[-1]
    return Header(torch.Size([columns, header.shape.numel() // (one.experts * max(columns, 1))]), header.dtype)


def by_expert(source: str, tensors: Weights, module: nn.Module) -> Weights:
    """Divide the factors of mixtures as mlx-lm stacks them; other tensors stay as they are.

    Args:
        source: Name of the adapter in messages.
        tensors: The adapter's tensors.
        module: The module that it was trained as, of today's transformers.

    Raises:
        IncompatibleExpertsError: The factors are of a mixture that files of transformers hold otherwise, or have
            another number of experts.
    """
    stacked = [key for key, header in tensors.headers.items() if len(header.shape) == 3]
    found = [match for key in stacked if (match := _SWITCH.fullmatch(key))]
    slices = {name: one for stack in found for name, one in _divided(source, tensors, module, stack)}
    return ByExpert(tensors, slices) if slices else tensors


def _divided(source: str, tensors: Weights, module: nn.Module, stack: re.Match[str]) -> Iterator[tuple[str, _Slice]]:
    second = stack.string
    first, (count, _, rank) = f"{second.removesuffix('b')}a", tensors.shape(second)
    if first not in tensors:
        return  # a factor without a partner is refused by its name
    if tuple(tensors.shape(first)[:-1]) not in ((count, rank), (count * rank,)) or not count * rank:
        raise IncompatibleExpertsError(
            f"{source}: {first} has the shape {tuple(tensors.shape(first))}, expected factors of {count} experts and "
            f"rank {rank}, as {second} {tuple(tensors.shape(second))} has, neither of them 0. Save or copy the adapter "
            "again."
        )
    layer = _layer(stack, module)
    if layer is None:
        raise IncompatibleExpertsError(
            f"{source}: {first} of mlx-lm changes all experts of a mixture, expected layers of single experts "
            f"({stack['parent']}.experts.0.{stack['layer']}) in the files of {type(module).__name__}, found none. "
            f"{FUSE}."
        )
    for key in (first, second):
        for expert in range(count):
            part = key.rpartition(".")[2]
            yield f"{stack['parent']}.experts.{expert}.{layer}.{part}", _Slice(key, expert, count)


def _layer(stack: re.Match[str], module: nn.Module) -> str | None:
    """Find the word for a layer of an expert that the files of a class use; None if they hold no single experts."""
    words = [stack["layer"], _OTHER_WORDS.get(stack["layer"], stack["layer"])]
    names = {f"{stack['parent']}.experts.0.{word}.weight": word for word in words}
    found = places(module, names)
    known = {name for several in found.names.values() for name in several}
    known |= {name for conversion in found.made.values() for name in conversion.names}
    return next((word for name, word in names.items() if name in known), None)
