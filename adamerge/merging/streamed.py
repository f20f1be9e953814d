"""Execution of one block at a time: a block's parameters exist only while the rows of all tasks pass it.

    forward:   for every block: merge, run all tasks' rows without graph, drop
    backward:  for every block, the last one first: merge, run again with graph, ∂L/∂block by autograd, inner, drop

A step so merges every block twice, whatever the number of tasks and micro-batches. The last block, after which passes
end, runs once: its backward pass follows at once. In between, only the tensors that pass from block to block exist.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.data.rows import move
from adamerge.merging.calls import Tape, begin
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.forward_pass import Layers
from adamerge.merging.frame import ReadOutsideError
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.read_ahead import NextBlock, ReadAhead
from adamerge.merging.rounds import Held, Pass, Source, closing, held, next_round
from adamerge.merging.step_losses import StepLosses
from adamerge.merging.streamed_outputs import StreamedMerged, held_for, note_read_outside, source_of, start
from adamerge.merging.work import Execution, Merged, Step, Work
from adamerge.types import Coefficients


class StreamedExecution(Execution):
    """Merge, run and drop one block after another.

    Args:
        model: Experts, task vectors, grouping and the paths of blocks.
    """

    def __init__(self, model: MergedModel) -> None:
        self._model = model
        self._blocks = model.task_blocks
        self._last: set[str] = set()  # blocks after which passes end
        self._heads: dict[str, str | None] = {}
        self._next = NextBlock(ReadAhead(model.vectors))

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
            ahead = replace(source, merge=self._next.step(source.merge))
            try:
                losses, sums = self._step(ahead, every, layers, cosines)
            except ReadOutsideError as error:
                note_read_outside(self._blocks.values(), error)
                continue
            total = {task: coefficients.new_zeros(()) for task in work}
            for (task, _), loss in zip(every, losses, strict=True):
                total[task] += loss.to(coefficients.device)
            return Step(total, sums.total.to(coefficients), sums.scores)

    @override
    @contextmanager
    def at(self, coefficients: Coefficients) -> Generator[Merged]:
        yield StreamedMerged(self._model, coefficients)

    def _step(
        self, source: Source, every: Sequence[tuple[str, Work]], layers: Layers, cosines: ExpertCosines | None
    ) -> tuple[list[Tensor], "_Sums"]:
        model, sums = self._model, _Sums(self._model, cosines)
        batches = [move(one.batch, model.vectors.device, model.vectors.dtype) for _, one in every]
        ends = StepLosses(model, every, batches, layers, self._heads)
        loose = held(source, [(task, self._blocks[task].outside()) for task, _ in every], gradients=True)
        passes: list[Pass] = []
        rounds: list[list[tuple[Pass, Tape]]] = []
        with closing(passes):
            for number, ((task, _), batch) in enumerate(zip(every, batches, strict=True)):
                passes.append(start(self._blocks[task], loose, batch, layers, number, gradients=True))
            while together := next_round(passes):
                rounds.append(self._go_on(source, together, ends, sums))
            sums.expect([*map(_names, rounds), list(loose.leaves)])
            while rounds:
                tapes = rounds.pop()
                sums.add(_walk_back(source, tapes), _names(tapes))
            sums.add(loose, list(loose.leaves))
        return [ends.losses[number] for number in range(len(every))], sums

    def _go_on(
        self, source: Source, together: Sequence[Pass], ends: StepLosses, sums: "_Sums"
    ) -> list[tuple[Pass, Tape]]:
        """Run the block that passes wait for, and its backward pass for those that end after it; return the others."""
        key, block = together[0].key, held_for(source, together, gradients=True)
        tapes = [(one, tape) for one in together if (tape := self._run(one, block, ends)) is not None]
        self._last = self._last - {key} if tapes else self._last | {key}
        torch.clear_autocast_cache()
        sums.add(block)
        return tapes

    def _run(self, one: Pass, block: Held, ends: StepLosses) -> Tape | None:
        parameters = block.of(one.blocks.expert.name, one.blocks.names(one.call.path))
        if ends.in_chunks(one, parameters):
            return None
        output, tape = begin(one.call, one.block(), parameters, graph=one.key in self._last)
        one.go_on(output)
        del output
        if not one.turns.done:
            tape.graph = None
            return tape
        ends.end(one.number, one.turns.take())
        if tape.graph is None:
            torch.clear_autocast_cache()  # it holds parameters that were cast without graph
        tape.backward(parameters)
        return None


def _walk_back(source: Source, tapes: Sequence[tuple[Pass, Tape]]) -> Held:
    """Run the backward passes of all calls of one block; return its parameters with their gradients."""
    wanted = [(one, tape) for one, tape in tapes if tape.wanted]
    for _, tape in tapes:
        if not tape.wanted:
            tape.close()
    names = [(one.blocks.expert.name, one.blocks.names(tape.call.path)) for one, tape in wanted]
    block = held(source, names, gradients=True)
    for (_, tape), (task, own) in zip(wanted, names, strict=True):
        tape.backward(block.of(task, own))
    torch.clear_autocast_cache()
    return block


def _names(tapes: Iterable[tuple[Pass, Tape]]) -> list[str]:
    """Name the parameters of the block that was called."""
    return list({name: None for one, tape in tapes for name in one.blocks.names(tape.call.path).values()})


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
        self._known = False  # whether all rounds are

    def expect(self, rounds: Iterable[Sequence[str]]) -> None:
        """Count how often each parameter's gradient will be added."""
        self._known = True
        for names in rounds:
            self._left.update(names)

    def add(self, block: Held, expected: Sequence[str] = ()) -> None:
        """Add the gradients of a block.

        Args:
            block: The block.
            expected: Parameters of one of the rounds that were expected.
        """
        gradients = block.gradients()
        if gradients:
            self.total += self._vectors.inner(gradients, self._grouping)
        if self._cosines:
            for name, gradient in gradients.items():
                self._waiting[name] = self._waiting[name] + gradient if name in self._waiting else gradient
            self._left.subtract(expected)
            if self._known:
                self._score(self._cosines)

    def _score(self, cosines: ExpertCosines) -> None:
        complete = [name for name in self._waiting if self._left[name] <= 0]
        scores = cosines({name: self._waiting.pop(name) for name in complete})
        self.scores = scores if self.scores is None else self.scores + scores
