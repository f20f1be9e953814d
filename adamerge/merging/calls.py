"""One call of a block: run without graph, and run again with graph in the backward pass."""

# pyright: standard

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees
from typing_extensions import override

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


class Cut:
    """A place where a graph begins at a tensor that a block returned, and where the gradient arrives.

    Unlike at a leaf, the model may change the tensor in place afterwards.

    Args:
        output: The tensor.

    Attributes:
        output: The same tensor, with a graph that begins here.
        gradient: What has arrived.
    """

    def __init__(self, output: Tensor) -> None:
        self.gradient: Tensor | None = None
        token = torch.empty((), requires_grad=True)
        self.output: Tensor = _Begin.apply(token, output, self)  # pyright: ignore
        self._version = self.output._version

    def same(self, output: Tensor) -> bool:
        """Return whether a tensor is what the block returned; unknown, so true, where the model has changed that."""
        if self.output._version != self._version:
            return True
        if output.shape != self.output.shape:
            return False
        return torch.equal(output, self.output) or torch.allclose(output, self.output, 1e-3, 1e-4, equal_nan=True)

    def close(self) -> None:
        """Let go of the tensors: the graph of the output leads back here, a ring that only a full collection ends."""
        del self.output
        self.gradient = None

    def arrive(self, gradient: Tensor) -> None:
        """Add a gradient."""
        self.gradient = gradient if self.gradient is None else self.gradient + gradient


class _Begin(torch.autograd.Function):
    """Return a tensor as it is; its gradient goes to a `Cut`."""

    @staticmethod
    @override
    def forward(ctx: Any, token: Tensor, output: Tensor, cut: Cut) -> Tensor:  # pyright: ignore
        ctx.cut = cut
        ctx.mark_dirty(output)
        return output

    @staticmethod
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:  # pyright: ignore
        ctx.cut.arrive(gradient)
        return None, None, None


@dataclass(eq=False)
class Tape:
    """A call of a block in a pass with gradient, from its forward to its backward pass.

    Attributes:
        call: The call.
        block: The block.
        start: Random state where the call begins.
        versions: Versions of its tensor arguments where the call begins.
        cuts: Where the gradient of each output arrives; None for what has no gradient.
        graph: Outputs with graph and arguments with graph, once it has run with graph.
    """

    call: Call
    block: Block
    start: Tensor
    versions: list[int]
    cuts: list[Cut | None] = field(default_factory=list[Cut | None])
    graph: tuple[list[Any], list[Any]] | None = None

    @property
    def wanted(self) -> bool:
        """Whether a gradient arrived at the outputs."""
        return any(cut is not None and cut.gradient is not None for cut in self.cuts)

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
        arrived = [None if cut is None else cut.gradient for cut in self.cuts]
        self.close()
        pairs = [(out, own) for out, own in zip(outputs, arrived, strict=True) if own is not None and out.requires_grad]
        if pairs:
            backward([out for out, _ in pairs], [own for _, own in pairs])
        given = trees.tree_leaves((self.call.args, self.call.kwargs))
        back = [(g, own.grad) for g, own in zip(given, arguments, strict=True) if _differentiable(own)]
        back = [(one, gradient) for one, gradient in back if gradient is not None]
        if back:  # through what the model computes between blocks; it may lead to several blocks
            backward([one for one, _ in back], [gradient for _, gradient in back], retain_graph=True)

    def close(self) -> None:
        """Forget outputs and graph, once they are not needed any more."""
        for cut in self.cuts:
            if cut is not None:
                cut.close()
        self.cuts, self.graph = [], None

    def _check(self, outputs: list[Any]) -> None:
        """Refuse a block that computes something else when it runs again."""
        same = len(outputs) == len(self.cuts) and all(
            cut is None or cut.same(out) for out, cut in zip(outputs, self.cuts, strict=True)
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
    answer = _answer(call, outputs, arguments, parameters)
    gradients = call.surroundings.gradients
    begins = [gradients and _floating(own) and not passed for own, passed in answer]
    tape.cuts = [Cut(own) if begin else None for (own, _), begin in zip(answer, begins, strict=True)]
    tape.graph = (outputs, arguments) if graph and gradients else None
    given = [own if cut is None else cut.output for (own, _), cut in zip(answer, tape.cuts, strict=True)]
    return trees.tree_unflatten(given, spec), tape


def answer(call: Call, block: Block, parameters: Parameters) -> object:
    """Run a block for a pass without gradient, and return what the pass gets."""
    outputs, arguments, spec = run(call, block, parameters, graph=False)
    return trees.tree_unflatten([own for own, _ in _answer(call, outputs, arguments, parameters)], spec)


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
    own = [
        one.detach().requires_grad_(one.requires_grad and graph) if isinstance(one, Tensor) else one for one in given
    ]
    args, kwargs = trees.tree_unflatten(own, spec)
    contents, versions = _inside(own), _versions(call)
    with block.numbers.drawn(state), call.surroundings.again(graph):
        output = block.run(parameters, args, kwargs)
    _check_versions(block.module, call, versions)
    after, _ = trees.tree_flatten((args, kwargs))
    if len(after) != len(own) or any(map(_differ, after, own)) or _inside(own) != contents:
        raise refusal(block.module, "changes its arguments")
    outputs, spec = trees.tree_flatten(output)
    strange = [one for one in outputs if not isinstance(one, _PLAIN)]
    if strange:
        raise refusal(block.module, f"returns an object ({type(strange[0]).__name__}) where tensors are expected")
    return outputs, own, spec


def _answer(
    call: Call, outputs: Sequence[object], arguments: Sequence[object], parameters: Parameters
) -> list[tuple[Any, bool]]:
    """Take outputs out of their graph, and say which are arguments, which a pass gets back as they are.

    A view of a parameter or of an argument is copied: neither may live on or change with it.
    """
    given = trees.tree_leaves((call.args, call.kwargs))
    passed = {id(own): one for one, own in zip(given, arguments, strict=True) if isinstance(own, Tensor)}
    tensors = [*parameters.values(), *(own for own in arguments if isinstance(own, Tensor))]
    places = {own.untyped_storage().data_ptr() for own in tensors}
    return [(passed[id(one)], True) if id(one) in passed else (_apart(one, places), False) for one in outputs]


def _apart(output: object, places: set[int]) -> object:
    if not isinstance(output, Tensor):
        return output
    return output.detach().clone() if output.untyped_storage().data_ptr() in places else output.detach()


def _floating(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def size_of_call(call: Call) -> int:
    """Return the bytes of a call's tensors."""
    return sum(one.nbytes for one in trees.tree_leaves((call.args, call.kwargs)) if isinstance(one, Tensor))


def _versions(call: Call) -> list[int]:
    return [_version(one) for one in trees.tree_leaves((call.args, call.kwargs))]


def _version(value: object) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _check_versions(module: nn.Module, call: Call, versions: list[int]) -> None:
    if _versions(call) != versions:
        raise refusal(module, "has arguments that are changed in place")


def _inside(arguments: Sequence[object]) -> list[list[object]]:
    return [_contents(one) for one in arguments if not isinstance(one, _PLAIN)]


def _contents(value: object, seen: set[int] | None = None) -> list[object]:
    """Identify everything inside an object that a block gets, such as a cache: what it adds there would be lost."""
    seen = set[int]() if seen is None else seen
    if isinstance(value, Tensor):
        return [id(value), _version(value)]
    if id(value) in seen or isinstance(value, (*_PLAIN, nn.Module, type)) or callable(value):
        return [id(value)]
    seen.add(id(value))
    items = list(value.items()) if isinstance(value, dict) else []  # pyright: ignore
    inside = list(value) if isinstance(value, list | tuple | set) else [part for pair in items for part in pair]  # pyright: ignore
    inside += list(getattr(value, "__dict__", {}).values())
    return [id(value), *(one for part in inside for one in _contents(part, seen))]


def _differ(one: object, other: object) -> bool:
    return one is not other


def _differentiable(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
