"""One call of a block: run without graph, and run again with graph in the backward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from adamerge.experts.random_numbers import RandomNumbers
from adamerge.merging.frame import Call, refusal
from adamerge.merging.recomputation import backward
from adamerge.types import Parameters

Run: TypeAlias = Callable[[Parameters, Sequence[object], Mapping[str, object]], object]
"""Runs a block: its parameters, arguments and keyword arguments → what it returns."""

_PLAIN = (Tensor, bool, int, float, str, type(None), torch.dtype, torch.device)


@dataclass(eq=False)
class Block:
    """A block of one task's model.

    Attributes:
        module: Its module.
        run: Runs it so that it does not change.
        numbers: Random numbers of the pass that calls it.
    """

    module: nn.Module
    run: Run
    numbers: RandomNumbers


@dataclass(eq=False)
class Tape:
    """A call of a block in a pass with gradient, from its forward to its backward pass.

    Attributes:
        call: The call.
        block: The block.
        start: Random state where the call begins.
        versions: Versions of its tensor arguments where the call begins.
        leaves: What the pass got as outputs: every tensor of it begins a graph.
        graph: Outputs with graph and arguments with graph, once it has run with graph.
    """

    call: Call
    block: Block
    start: Tensor
    versions: list[int]
    leaves: list[Any] = field(default_factory=list[Any])
    graph: tuple[list[Any], list[Any]] | None = None

    @property
    def wanted(self) -> bool:
        """Whether a gradient arrived at the outputs."""
        return any(isinstance(leaf, Tensor) and leaf.grad is not None for leaf in self.leaves)

    def backward(self, parameters: Parameters) -> None:
        """Run the block again with graph, and pass the gradient of its outputs to its parameters and arguments.

        Args:
            parameters: The block's parameters; those to differentiate by are leaves, whose gradients are added to.
        """
        if self.graph is None:
            _check_versions(self.block.module, self.call, self.versions)
            outputs, arguments, _ = run(self.call, self.block, parameters, graph=True, state=self.start)
            self._check(outputs)
            self.graph = outputs, arguments
        outputs, arguments = self.graph
        pairs = [(out, leaf.grad) for out, leaf in zip(outputs, self.leaves, strict=True) if _has_gradient(out, leaf)]
        if pairs:
            backward([out for out, _ in pairs], [gradient for _, gradient in pairs])
        given = trees.tree_leaves((self.call.args, self.call.kwargs))
        back = [(g, own.grad) for g, own in zip(given, arguments, strict=True) if _is_leaf(own) and own.grad is not None]
        self.leaves, self.graph = [], None
        if back:  # through what the model computes between blocks; it may lead to several blocks
            backward([one for one, _ in back], [gradient for _, gradient in back], retain_graph=True)

    def _check(self, outputs: list[Any]) -> None:
        """Refuse a block that computes something else when it runs again."""
        same = len(outputs) == len(self.leaves) and all(
            not isinstance(leaf, Tensor) or (out.shape == leaf.shape and torch.allclose(out, leaf, 1e-3, 1e-4, True))
            for out, leaf in zip(outputs, self.leaves, strict=True)
        )
        if not same:
            raise refusal(self.block.module, "computes something else when it runs again in the backward pass")


def begin(call: Call, block: Block, parameters: Parameters, *, graph: bool) -> tuple[object, Tape]:
    """Run a block for a pass with gradient.

    Args:
        call: The call.
        block: The block.
        parameters: Its parameters.
        graph: Whether to keep the graph, because the backward pass follows at once.

    Returns:
        What the pass gets, and the tape for the backward pass.
    """
    tape = Tape(call, block, block.numbers.state, _versions(call))
    outputs, arguments, spec = run(call, block, parameters, graph=graph)
    tape.leaves = [_cut(one, parameters, call.surroundings.gradients) for one in outputs]
    tape.graph = (outputs, arguments) if graph and call.surroundings.gradients else None
    return trees.tree_unflatten(tape.leaves, spec), tape


def answer(call: Call, block: Block, parameters: Parameters) -> object:
    """Run a block for a pass without gradient, and return what the pass gets."""
    outputs, _, spec = run(call, block, parameters, graph=False)
    return trees.tree_unflatten([_cut(one, parameters, False) for one in outputs], spec)


def run(
    call: Call, block: Block, parameters: Parameters, *, graph: bool, state: Tensor | None = None
) -> tuple[list[Any], list[Any], trees.TreeSpec]:
    """Run a block on the arguments of a call.

    Args:
        call: The call.
        block: The block.
        parameters: Its parameters.
        graph: Whether to record a graph, which begins at the arguments.
        state: Random state to begin with; by default that of the pass.

    Returns:
        Its outputs and the arguments that it got, as flat lists, and the structure of the outputs.
    """
    given, spec = trees.tree_flatten((call.args, call.kwargs))
    graph = graph and call.surroundings.gradients
    own = [one.detach().requires_grad_(one.requires_grad and graph) if isinstance(one, Tensor) else one for one in given]
    args, kwargs = trees.tree_unflatten(own, spec)
    attributes, versions = [_attributes(one) for one in own], _versions(call)
    with block.numbers.drawn(state), call.surroundings.again(graph):
        output = block.run(parameters, args, kwargs)
    _check_versions(block.module, call, versions)
    after, _ = trees.tree_flatten((args, kwargs))
    if len(after) != len(own) or any(map(_differ, after, own)) or [_attributes(one) for one in own] != attributes:
        raise refusal(block.module, "changes its arguments")
    outputs, spec = trees.tree_flatten(output)
    strange = [one for one in outputs if not isinstance(one, _PLAIN)]
    if strange:
        raise refusal(block.module, f"returns an object ({type(strange[0]).__name__}) where tensors are expected")
    return outputs, own, spec


def _cut(output: object, parameters: Parameters, gradients: bool) -> object:
    """Begin a new graph at an output; an output that is a view of a parameter is copied."""
    if not isinstance(output, Tensor):
        return output
    output = output.detach()
    if any(output.untyped_storage().data_ptr() == own.untyped_storage().data_ptr() for own in parameters.values()):
        output = output.clone()
    return output.requires_grad_(gradients and (output.is_floating_point() or output.is_complex()))


def bytes_of(call: Call) -> int:
    """Return the bytes of a call's tensors."""
    return sum(one.nbytes for one in trees.tree_leaves((call.args, call.kwargs)) if isinstance(one, Tensor))


def _versions(call: Call) -> list[int]:
    return [_version(one) for one in trees.tree_leaves((call.args, call.kwargs))]


def _version(value: object) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _check_versions(module: nn.Module, call: Call, versions: list[int]) -> None:
    if _versions(call) != versions:
        raise refusal(module, "has arguments that are changed in place")


def _attributes(value: object) -> dict[str, int]:
    """Identify the contents of an object that a block gets."""
    if isinstance(value, (*_PLAIN, nn.Module, type)) or callable(value):
        return {}
    return {name: id(one) for name, one in getattr(value, "__dict__", {}).items()}


def _differ(one: object, other: object) -> bool:
    return one is not other


def _is_leaf(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _has_gradient(output: object, leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.grad is not None and isinstance(output, Tensor) and output.requires_grad
