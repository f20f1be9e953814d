"""Execution of one block at a time: a block's parameters exist only while the rows of all tasks pass it.

    forward:   for every block: merge, run all tasks' rows without graph, drop
    backward:  for every block, the last one first: merge, run again with graph, ∂L/∂block by autograd, inner, drop

A step so merges every block twice, whatever the number of tasks and micro-batches. The last block, after which passes
end, runs once: its backward pass follows at once. In between, only the tensors that pass from block to block exist.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.batch import Batch, Outputs
from adamerge.data.rows import move
from adamerge.experts.random_numbers import RandomNumbers
from adamerge.merging.calls import Tape, answer, begin, bytes_of
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.frame import ReadOutsideError
from adamerge.merging.merged_model import Layers, MergedModel, arguments_of, outputs_of
from adamerge.merging.recomputation import backward
from adamerge.merging.rounds import Held, Pass, Source, TaskBlocks, closing, held, next_round
from adamerge.merging.work import Answer, Execution, Merged, Step, Work
from adamerge.types import Coefficients

WAVE = 8
"""Passes without gradient that go through the blocks together, until the size of what they hold is known."""

WAVE_BYTES = 2**28
"""Bytes between blocks that these passes may hold together."""


class StreamedExecution(Execution):
    """Merge, run and drop one block after another.

    Args:
        model: Experts, task vectors, grouping and the paths of blocks.
    """

    def __init__(self, model: MergedModel) -> None:
        self._model = model
        self._blocks = task_blocks(model)
        self._last: set[str] = set()  # blocks after which passes end

    @override
    def losses_and_gradient(
        self,
        coefficients: Coefficients,
        work: Mapping[str, Iterable[Work]],
        layers: Layers = (),
        cosines: ExpertCosines | None = None,
    ) -> Step:
        every = [(task, one) for task, own in work.items() for one in own]
        source = source_of(self._model, coefficients)
        while True:
            try:
                losses, sums = self._step(source, every, layers, cosines)
            except ReadOutsideError as error:
                _note(self._blocks.values(), error)
                continue
            total = {task: coefficients.new_zeros(()) for task in work}
            for (task, _), loss in zip(every, losses, strict=True):
                total[task] += loss.to(coefficients.device)
            return Step(total, sums.total.to(coefficients), sums.scores)

    @override
    @contextmanager
    def at(self, coefficients: Coefficients) -> Generator[Merged]:
        yield _StreamedMerged(self._model, self._blocks, coefficients)

    def _step(
        self, source: Source, every: Sequence[tuple[str, Work]], layers: Layers, cosines: ExpertCosines | None
    ) -> tuple[list[Tensor], "_Sums"]:
        model, sums = self._model, _Sums(self._model, cosines)
        batches = [move(one.batch, model.vectors.device, model.vectors.dtype) for _, one in every]
        loose = held(source, [(task, self._blocks[task].outside()) for task, _ in every], gradients=True)
        passes: list[Pass] = []
        losses: dict[int, Tensor] = {}
        rounds: list[list[tuple[Pass, Tape]]] = []
        with closing(passes):
            for number, ((task, _), batch) in enumerate(zip(every, batches, strict=True)):
                passes.append(start(self._blocks[task], loose, batch, layers, number, gradients=True))
            while together := next_round(passes):
                key, block = together[0].key, _held_for(source, together, gradients=True)
                tapes: list[tuple[Pass, Tape]] = []
                for one in together:
                    own = block.of(one.blocks.expert.name, one.blocks.names(one.call.path))
                    output, tape = begin(one.call, one.block(), own, graph=key in self._last)
                    one.go_on(output)
                    if one.turns.done:
                        loss = every[one.number][1].loss(outputs_of(one.turns.take(), layers), batches[one.number])
                        backward(loss, retain_graph=True)
                        losses[one.number] = loss.detach()
                        if tape.graph is None:
                            torch.clear_autocast_cache()  # it holds parameters that were cast without graph
                        tape.backward(own)
                    else:
                        tape.graph = None
                        tapes.append((one, tape))
                self._last = self._last - {key} if tapes else self._last | {key}
                torch.clear_autocast_cache()
                sums.add(block, last=False)
                rounds.append(tapes)
            sums.expect(rounds)
            while rounds:
                self._walk_back(source, rounds.pop(), sums)
            sums.add(loose)
        return [losses[number] for number in range(len(every))], sums

    def _walk_back(self, source: Source, tapes: list[tuple[Pass, Tape]], sums: "_Sums") -> None:
        """Run the backward passes of all calls of one block."""
        wanted = [(one, tape) for one, tape in tapes if tape.wanted]
        names = [(one.blocks.expert.name, one.blocks.names(tape.call.path)) for one, tape in wanted]
        block = held(source, names, gradients=True)
        for (_, tape), (task, own) in zip(wanted, names, strict=True):
            tape.backward(block.of(task, own))
        torch.clear_autocast_cache()
        sums.add(block)


class _Sums:
    """The gradient in the coefficients, and cosines, from the gradients of one block after another.

    inner is linear, so a parameter of several blocks needs no place to wait for its other gradients. Cosines are not.

    Args:
        model: Task vectors and grouping.
        cosines: Computes cosines, if they are requested.
    """

    def __init__(self, model: MergedModel, cosines: ExpertCosines | None) -> None:
        self._vectors, self._grouping, self._cosines = model.vectors, model.grouping, cosines
        self.total = torch.zeros(
            len(model.grouping), len(model.vectors.experts), dtype=model.vectors.dtype, device=model.vectors.device
        )
        self.scores: Tensor | None = None
        self._waiting: dict[str, Tensor] = {}
        self._left: Counter[str] = Counter()

    def expect(self, rounds: Sequence[Sequence[tuple[Pass, Tape]]]) -> None:
        """Count in how many rounds of the backward pass each parameter gets a gradient."""
        for tapes in rounds if self._cosines else ():
            self._left.update({name for one, tape in tapes for name in one.blocks.names(tape.call.path).values()})

    def add(self, block: Held, *, last: bool = True) -> None:
        """Add the gradients of a block; not `last` where other blocks with the same parameters may follow."""
        gradients = block.gradients()
        if gradients:
            self.total += self._vectors.inner(gradients, self._grouping)
        if self._cosines:
            for name, gradient in gradients.items():
                self._waiting[name] = self._waiting[name] + gradient if name in self._waiting else gradient
            if last:
                self._left.subtract(block.leaves)
                self._score()

    def _score(self) -> None:
        complete = {name: self._waiting.pop(name) for name in list(self._waiting) if self._left[name] <= 0}
        assert self._cosines
        scores = self._cosines(complete)
        self.scores = scores if self.scores is None else self.scores + scores


class _StreamedMerged(Merged):
    def __init__(self, model: MergedModel, blocks: Mapping[str, TaskBlocks], coefficients: Coefficients) -> None:
        self._model, self._blocks, self._coefficients = model, blocks, coefficients.detach().clone()

    @override
    def outputs(
        self, batches: Mapping[str, Iterable[Batch]], layers: Layers = (), own_head: bool = True
    ) -> Iterator[Answer]:
        source = source_of(self._model, self._coefficients, written=True, own_head=own_head)
        every = ((task, batch) for task, own in batches.items() for batch in own)
        return answers(self._model, self._blocks, source, every, layers)

    @override
    def parameter(self, name: str) -> Tensor:
        return source_of(self._model, self._coefficients, written=True).merge([name])[name]


def task_blocks(model: MergedModel) -> dict[str, TaskBlocks]:
    """Find the blocks of every task's module.

    Raises:
        ConfigError: A module has none.
    """
    common = frozenset([*model.vectors.shapes, *model.fixed])
    dtype, device = model.vectors.dtype, model.vectors.device
    return {
        task: TaskBlocks(expert, common | set(expert.whole_head), model.blocks or (), dtype, device)
        for task, expert in model.experts.tasks.items()
    }


def source_of(
    model: MergedModel, coefficients: Coefficients, *, written: bool = False, own_head: bool = True
) -> Source:
    """Return the merged parameters as a source of blocks.

    Args:
        model: Experts, task vectors and grouping.
        coefficients: (G, K).
        written: Whether to round as for a file.
        own_head: Whether to use each expert's head, or the base's.
    """
    experts, rounding = model.experts, model.rounding.as_written

    def merge(names: Sequence[str]) -> dict[str, Tensor]:
        merged = model.vectors.combine(coefficients, model.grouping, names)
        return {name: rounding(name, value) for name, value in merged.items()} if written else merged

    def own(task: str, name: str) -> Tensor:
        expert = experts.tasks[task]
        return model.own(expert.weights[name] if own_head and name in expert.whole_head else experts.base[name])

    return Source(frozenset(model.vectors.shapes), merge, own)


def source_of_expert(model: MergedModel) -> Source:
    """Return the experts' own parameters as a source of blocks."""
    weights = model.experts.weights
    return Source(frozenset(), lambda names: {}, lambda task, name: model.own(weights[task][name]))


def start(blocks: TaskBlocks, loose: Held, batch: Batch, layers: Layers, number: int, *, gradients: bool) -> Pass:
    """Begin a forward pass, and run it to its first block.

    Args:
        blocks: The blocks of the task's module.
        loose: Parameters that are used outside of blocks.
        batch: The rows, on the device.
        layers: Hidden states to return.
        number: Place of the pass among all.
        gradients: Whether it has a backward pass.
    """
    frame, device = blocks.take_frame(), next(iter(batch.inputs.values())).device
    frame.fill(loose.of(blocks.expert.name, blocks.outside()))
    turns = frame.run(arguments_of(blocks.expert, batch.inputs, layers), gradients=gradients)
    begun = Pass(blocks, frame, turns, RandomNumbers(0, device), number)
    begun.go_on()
    return begun


def answers(
    model: MergedModel,
    blocks: Mapping[str, TaskBlocks],
    source: Source,
    every: Iterable[tuple[str, Batch]],
    layers: Layers,
) -> Iterator[Answer]:
    """Run batches without gradient, as many together as may be held between blocks.

    Args:
        model: Experts, and where to compute.
        blocks: The blocks of every task's module.
        source: Where parameters come from.
        every: Tasks and batches.
        layers: Hidden states to return.

    Yields:
        One answer per batch, in their order.
    """
    queue, size = iter(every), WAVE
    while wave := list(islice(queue, size)):
        moved = [(task, move(batch, model.vectors.device, model.vectors.dtype)) for task, batch in wave]
        while moved:
            try:
                for answered, held_bytes in _wave(blocks, source, moved, layers):
                    task, batch = moved[0]
                    moved = moved[1:]
                    size = max(1, WAVE_BYTES // max(1, held_bytes))
                    yield Answer(task, batch, answered)
            except ReadOutsideError as error:
                _note(blocks.values(), error)


def _wave(
    blocks: Mapping[str, TaskBlocks], source: Source, every: Sequence[tuple[str, Batch]], layers: Layers
) -> Iterator[tuple[Outputs, int]]:
    """Run some batches together; yields their outputs in their order, and the bytes that one holds between blocks."""
    loose = held(source, [(task, blocks[task].outside()) for task, _ in every], gradients=False)
    passes: list[Pass] = []
    ended: dict[int, Outputs] = {}
    given, most = 0, 1
    with closing(passes), torch.no_grad():
        for number, (task, batch) in enumerate(every):
            passes.append(start(blocks[task], loose, batch, layers, number, gradients=False))
        while together := next_round(passes):
            most = max(most, *(bytes_of(one.call) for one in together))
            block = _held_for(source, together, gradients=False)
            for one in together:
                own = block.of(one.blocks.expert.name, one.blocks.names(one.call.path))
                one.go_on(answer(one.call, one.block(), own))
                if one.turns.done:
                    ended[one.number] = outputs_of(one.turns.take(), layers)
                while given in ended:
                    yield ended.pop(given), most
                    given += 1


def _held_for(source: Source, passes: Sequence[Pass], *, gradients: bool) -> Held:
    """Make the parameters of the block that passes wait for."""
    wanted = [(one.blocks.expert.name, one.blocks.names(one.call.path)) for one in passes]
    return held(source, wanted, gradients=gradients)


def _note(blocks: Iterable[TaskBlocks], error: ReadOutsideError) -> None:
    """Merge a parameter that is read outside of its block before a pass begins, from now on."""
    if not any([one.read_outside(error.name) for one in blocks]):
        raise error
