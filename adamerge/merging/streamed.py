"""Execution of one block at a time: a block's parameters exist only while the rows of all tasks pass it.

    forward:   for every block: merge, run all tasks' rows without graph, drop
    backward:  for every block, the last one first: merge, run again with graph, ∂L/∂block by autograd, inner, drop

A step so merges every block twice, whatever the number of tasks and micro-batches. The last block, after which passes
end, runs once: its backward pass follows at once. In between, only the tensors that pass from block to block exist.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.data.rows import move
from adamerge.merging.calls import Tape, begin
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.forward_pass import Layers, outputs_of
from adamerge.merging.frame import ReadOutsideError
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.recomputation import backward
from adamerge.merging.rounds import Held, Pass, Source, closing, held, next_round
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
        loose = held(source, [(task, self._blocks[task].outside()) for task, _ in every], gradients=True)
        passes: list[Pass] = []
        losses: dict[int, Tensor] = {}
        rounds: list[list[tuple[Pass, Tape]]] = []
        with closing(passes):
            for number, ((task, _), batch) in enumerate(zip(every, batches, strict=True)):
                passes.append(start(self._blocks[task], loose, batch, layers, number, gradients=True))
            while together := next_round(passes):
                key, block = together[0].key, held_for(source, together, gradients=True)
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
