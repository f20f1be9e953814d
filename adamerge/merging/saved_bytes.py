"""Bytes of a step's activations, from one pass on the meta device, which has shapes and no numbers."""

# pyright: standard

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as trees

from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import forward_inputs, masked_alike
from adamerge.experts.stateless import Stateless
from adamerge.merging.blocks import frames
from adamerge.merging.step_losses import CHUNK, head_of

_LOSS = 6
"""Tensors of the size of the logits that a loss and its gradient take: these, (log-)probabilities, and gradients."""


class Saved(NamedTuple):
    """Bytes of activations.

    Attributes:
        whole: Of one batch through the whole model, kept for the backward pass.
        streamed: Of all batches at the ends of blocks, and of one batch inside the largest block.
    """

    whole: int
    streamed: int


def saved_bytes(
    expert: Expert,
    blocks: Sequence[str],
    inputs: Mapping[str, Tensor],
    passes: int,
    dtype: torch.dtype,
    *,
    by_position: bool = False,
) -> Saved | None:
    """Count the bytes of activations of one forward pass; None if the module does not run on the meta device.

    Args:
        expert: The task's expert.
        blocks: Paths of blocks in its module.
        inputs: A batch.
        passes: Passes of a step, all of batches like this one.
        dtype: Of the computation.
        by_position: Whether the loss can be taken for some positions at a time, where blocks are streamed.
    """
    tried = _tried(expert.module, inputs, blocks, dtype)
    if tried is None:
        return None
    count, logits = tried
    loss = _LOSS * logits
    inside = max((size for path, size in count.saved.items() if path), default=0)
    at_once, most = loss, _LOSS * CHUNK * dtype.itemsize
    if by_position and loss > most and head_of(expert, inputs) is not None:
        at_once = most
    outside = count.saved.get("", 0) + at_once
    return Saved(sum(count.saved.values()) + loss, passes * count.borders + max(inside, outside))


def _tried(
    module: nn.Module, inputs: Mapping[str, Tensor], blocks: Sequence[str], dtype: torch.dtype
) -> "tuple[_Count, int] | None":
    """Run a pass on the meta device, with the masks that it can have there."""
    for batch in masked_alike(inputs):
        count = _Count(blocks)
        try:
            return count, _run(module, batch, count, dtype)
        except Exception:  # the module reads values of its inputs, or has tensors that are not buffers
            continue
    return None


class _Count:
    """Bytes that autograd saves, by block, and that blocks return."""

    def __init__(self, blocks: Sequence[str]) -> None:
        self.blocks, self.now = blocks, ""
        self.saved: dict[str, int] = {}
        self.ends: list[int] = []
        self._seen: dict[int, Any] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and self._new(tensor):
            self.saved[self.now] = self.saved.get(self.now, 0) + tensor.untyped_storage().nbytes()
        return tensor

    def enter(self, path: str, module: nn.Module, inputs: object) -> None:
        self.now = path

    def leave(self, module: nn.Module, inputs: object, output: object) -> None:
        self.now = ""
        self.ends.append(sum(one.nbytes for one in trees.tree_leaves(output) if isinstance(one, Tensor)))

    @property
    def borders(self) -> int:
        """Bytes that parts return and the next ones get; what the last one returns is what the loss is of."""
        return sum(self.ends[:-1])

    def _new(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        known = storage._cdata in self._seen
        self._seen[storage._cdata] = storage  # kept, so that no other storage gets its address
        return not known


def _run(module: nn.Module, inputs: Mapping[str, Tensor], count: _Count, dtype: torch.dtype) -> int:
    """Run a pass on the meta device; returns the bytes of the logits."""
    state: dict[str, Tensor] = {
        name: nn.Parameter(torch.empty(own.shape, device="meta", dtype=dtype))
        for name, own in module.named_parameters()
    }
    state |= {name: buffer.to("meta") for name, buffer in module.named_buffers()}
    count._seen |= {own.untyped_storage()._cdata: own.untyped_storage() for own in state.values()}
    given = {name: tensor.to("meta", dtype if tensor.is_floating_point() else None) for name, tensor in inputs.items()}
    with ExitStack() as stack:
        for path in count.blocks:
            part = module.get_submodule(path)
            stack.callback(part.register_forward_pre_hook(partial(count.enter, path)).remove)
            stack.callback(part.register_forward_hook(count.leave).remove)
        for part in _beside(module, count.blocks):  # embeddings, norms and heads run by themselves too
            stack.callback(part.register_forward_hook(count.leave).remove)
        stack.enter_context(saved_tensors_hooks(count.pack, lambda tensor: tensor))
        stack.enter_context(torch.enable_grad())
        output = Stateless(module, written=frozenset())(state, (), forward_inputs(module, given))
    return sum(own.nbytes for own in _tensors(output)[:1])


def _beside(module: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    """List the modules beside blocks that have parameters."""
    around = frames(blocks)
    inside = {*around, *blocks}
    named = [(path, module.get_submodule(path)) for path in around]
    beside = [
        part
        for path, owner in named
        for name, part in owner.named_children()
        if f"{path}.{name}".lstrip(".") not in inside and any(True for _ in part.parameters())
    ]
    return list(dict.fromkeys(beside))


def _tensors(output: object) -> list[Tensor]:
    """List the tensors of an output; the first is the logits, or what the class has in their place."""
    if isinstance(output, Tensor):
        return [output]
    logits = getattr(output, "logits", None)
    named = cast(Mapping[str, object], output).values() if isinstance(output, Mapping) else ()
    return [logits] if isinstance(logits, Tensor) else [one for one in named if isinstance(one, Tensor)]
