"""Passes of many rows and tasks through the blocks of their models: a block is made once for all that wait for it."""

# pyright: standard

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import OutOfMemoryError, Tensor

from adamerge.experts.experts import Expert
from adamerge.experts.random_numbers import RandomNumbers
from adamerge.experts.stateless import Stateless
from adamerge.experts.tied import tied_names
from adamerge.merging.blocks import find_blocks, frames
from adamerge.merging.calls import Block
from adamerge.merging.frame import Call, Frame, ReadOutsideError, refusal
from adamerge.merging.turns import Turns
from adamerge.storage.memory import give_back
from adamerge.types import ConfigError, Parameters


@dataclass(frozen=True, eq=False)
class Source:
    """Where the parameters of blocks come from.

    Attributes:
        shared: Names of parameters that all tasks have in common.
        merge: Makes some of these.
        own: Makes any other one, given the task and the name.
    """

    shared: frozenset[str]
    merge: Callable[[Sequence[str]], dict[str, Tensor]]
    own: Callable[[str, str], Tensor]


class TaskBlocks:
    """The blocks of one task's module, and where their parameters come from.

    Args:
        expert: The task's expert.
        known: Names that the module's parameters have in the merge.
        given: Paths of blocks in the expert's own module; () finds them.
        dtype: Of the computation.
        device: Of the computation.

    Attributes:
        expert: The task's expert.
        order: Place of each module in the model.
        random: Whether a pass drew random numbers.
    """

    def __init__(
        self, expert: Expert, known: frozenset[str], given: Sequence[str], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.expert, self._dtype, self._device, self.random = expert, dtype, device, False
        module = expert.module
        blocks = find_blocks(module, [expert.prefix + path for path in given])
        if not blocks:
            raise refusal(module, "has no list of like modules")
        if expert.draws_elsewhere:
            raise refusal(module, "draws random numbers from Python or numpy")
        self._around = frames(blocks)
        self._names = merge_names(expert, known)
        self.order = {self.key(path): place for place, (path, _) in enumerate(module.named_modules())}
        self._runs: dict[str, Stateless] = {}
        self._frames: list[Frame] = []
        self._outside = [name for name in self._names if name.rpartition(".")[0] in self._around]

    def key(self, path: str) -> str:
        """Name a block as other tasks' models name it too."""
        return path.removeprefix(self.expert.prefix)

    def names(self, path: str) -> dict[str, str]:
        """Map the names of a block's tensors in the block to their names in the merge."""
        return {n.removeprefix(f"{path}."): name for n, name in self._names.items() if n.startswith(f"{path}.")}

    def outside(self) -> dict[str, str]:
        """Map the names in the module of what is read outside of blocks to the names in the merge."""
        return {name: self._names[name] for name in self._outside}

    def read_outside(self, name: str) -> bool:
        """Note that a parameter is read outside of its block; returns whether this is news."""
        new = name in self._names and name not in self._outside
        self._outside += [alias for alias in self._names if new and self._names[alias] == self._names[name]]
        return new

    def block(self, path: str, numbers: RandomNumbers) -> Block:
        """Return a block of the expert's module."""
        module = self.expert.module.get_submodule(path)
        if path not in self._runs:
            self._runs[path] = Stateless(module, seed=None, written=frozenset())
        return Block(module, partial(self._run, path), numbers)

    def _run(self, path: str, state: Parameters, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Run a block.

        Raises:
            ConfigError: It fails where it runs by itself, or its attributes change, which code around it could read.
        """
        run = self._runs[path]
        try:
            output = run(state, args, kwargs)
        except (OutOfMemoryError, ConfigError):
            raise
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise refusal(self.expert.module, f"fails in {path} ({reason})") from error
        changed = [
            name for name in run.changed if "_hooks" not in name
        ]  # transformers installs some at their first use
        if changed:
            raise refusal(self.expert.module, f"changes {path} when it runs ({min(changed)})")
        return output

    def take_frame(self) -> Frame:
        """Take a frame for one pass."""
        if self._frames:
            return self._frames.pop()
        return Frame(self.expert.module, self._around, self._dtype, self._device)

    def give_back(self, frame: Frame) -> None:
        """Give a frame back after a pass."""
        frame.empty()
        self._frames.append(frame)


@dataclass(eq=False)
class Pass:
    """A forward pass of one task's model on one batch.

    Attributes:
        blocks: The blocks of the task's module.
        frame: What runs around them.
        turns: The pass.
        numbers: Its random numbers.
        number: Its place among all passes.
    """

    blocks: TaskBlocks
    frame: Frame
    turns: Turns[Call, object]
    numbers: RandomNumbers
    number: int

    @property
    def key(self) -> str:
        """The block that it waits for."""
        return self.blocks.key(self.call.path)

    @property
    def call(self) -> Call:
        """The call that it waits for."""
        assert self.turns.asked is not None
        return self.turns.asked

    def block(self) -> Block:
        """Return the block that it waits for."""
        return self.blocks.block(self.call.path, self.numbers)

    def go_on(self, answer: object = None) -> None:
        """Run to the next block, or to the end.

        Raises:
            ConfigError: The code between blocks fails.
        """
        try:
            with self.numbers.drawn():
                self.turns.go_on(answer)
        except (OutOfMemoryError, ReadOutsideError, ConfigError):
            raise
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise refusal(self.blocks.expert.module, f"fails between its blocks ({reason})") from error
        if self.turns.done:
            self.blocks.random |= self.numbers.state is not self.numbers.start
            self.blocks.give_back(self.frame)

    def close(self) -> None:
        """End the pass where it stands."""
        if not self.turns.done:
            self.turns.close()
            self.frame.empty()


@dataclass(eq=False)
class Held:
    """Parameters of one block, while it runs.

    Attributes:
        leaves: Those that all tasks have in common.
        own: Others, by task and name.
    """

    leaves: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    own: dict[tuple[str, str], Tensor] = field(default_factory=dict[tuple[str, str], Tensor])

    def of(self, task: str, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Return tensors by the names that they have in the block."""
        every = {inner: self.leaves.get(name, self.own.get((task, name))) for inner, name in names.items()}
        return {inner: tensor for inner, tensor in every.items() if tensor is not None}

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients that arrived."""
        return {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}


def held(source: Source, wanted: Iterable[tuple[str, Mapping[str, str]]], *, gradients: bool) -> Held:
    """Make the parameters of a block, in the memory that the one before it has left.

    Args:
        source: Where they come from.
        wanted: Tasks, and the names that they need.
        gradients: Whether to differentiate by what tasks have in common.
    """
    needed = list(dict.fromkeys((task, name) for task, names in wanted for name in names.values()))
    shared = list(dict.fromkeys(name for _, name in needed if name in source.shared))
    give_back()
    merged = source.merge(shared) if shared else {}
    leaves = {name: tensor.detach().requires_grad_(gradients) for name, tensor in merged.items()}
    return Held(leaves, {(task, name): source.own(task, name) for task, name in needed if name not in source.shared})


def next_round(passes: Iterable[Pass]) -> list[Pass]:
    """Choose the passes that wait for one block: of all blocks that are waited for, the first one in the model."""
    waiting = [one for one in passes if not one.turns.done]
    if not waiting:
        return []
    first = min(waiting, key=lambda one: one.blocks.order[one.key]).key
    return [one for one in waiting if one.key == first]


@contextmanager
def closing(passes: Sequence[Pass]) -> Generator[None]:
    """End all passes after the block."""
    try:
        yield
    finally:
        for one in passes:
            one.close()


def merge_names(expert: Expert, known: frozenset[str]) -> dict[str, str]:
    """Map the names of a module's parameters and own buffers, aliases too, to their names in the merge.

    Args:
        expert: The module.
        known: Names in the merge; what has none of them is left out.
    """
    found: dict[str, str] = {}
    buffers = [(name,) for name, _ in expert.module.named_buffers()]
    for aliases in [*tied_names(expert.module), *buffers]:
        stripped = [alias.removeprefix(expert.prefix) for alias in aliases if alias.startswith(expert.prefix)]
        name = next((one for one in stripped if one in known), None)
        found |= {alias: name for alias in aliases if name is not None}
    return found
