"""Outputs of models of which one block exists at a time: of the merged model, and of experts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor
from transformers import GenerationConfig
from typing_extensions import override

from adamerge.batch import Batch, Outputs
from adamerge.data.rows import move
from adamerge.experts.random_numbers import RandomNumbers
from adamerge.merging.calls import answer, size_of_call
from adamerge.merging.forward_pass import Layers, arguments_of, outputs_of
from adamerge.merging.frame import ReadOutsideError
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounds import Held, Pass, Source, TaskBlocks, closing, held, next_round
from adamerge.merging.work import Answer, Generate, Merged
from adamerge.types import Coefficients

WAVE = 8
"""Passes without gradient that go through the blocks together, until the size of what they hold is known."""

WAVE_BYTES = 2**28
"""Bytes between blocks that these passes may hold together."""


class StreamedMerged(Merged):
    """The merged model, one block at a time.

    Args:
        model: Experts, task vectors, grouping and the paths of blocks.
        coefficients: (G, K).
    """

    def __init__(self, model: MergedModel, coefficients: Coefficients) -> None:
        self._model, self._coefficients = model, coefficients.detach().clone()

    @override
    def outputs(
        self, batches: Mapping[str, Iterable[Batch]], layers: Layers = (), own_head: bool = True
    ) -> Iterator[Answer]:
        source = source_of(self._model, self._coefficients, written=True, own_head=own_head)
        every = ((task, batch) for task, own in batches.items() for batch in own)
        return answers(self._model, source, every, layers)

    @override
    def generator(self, task: str, own_head: bool = True) -> Generate:
        whole = source_of(self._model, self._coefficients, written=True).merge(tuple(self._model.vectors.shapes))
        return self._model.generator(task, whole, own_head)

    @override
    def parameter(self, name: str) -> Tensor:
        return source_of(self._model, self._coefficients, written=True).merge([name])[name]


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
        expert = experts.models[task]
        return model.own(expert.weights[name] if own_head and name in expert.whole_head else experts.base[name])

    return Source(frozenset(model.vectors.shapes), merge, own)


class StreamedExpert:
    """A task's unmerged expert, one block at a time.

    Args:
        model: Experts, and where to compute.
        task: Name of the task.
    """

    def __init__(self, model: MergedModel, task: str) -> None:
        self._model, self._task = model, task
        weights = model.experts.models[task].weights
        self._source = Source(frozenset(), lambda names: {}, lambda task, name: model.own(weights[name]))

    @property
    def random(self) -> bool:
        """Whether a pass drew random numbers."""
        return self._model.task_blocks[self._task].random

    def generate(self, inputs: Mapping[str, Tensor], how: GenerationConfig) -> Tensor:
        """Generate by the class's own `generate`, with the whole expert in memory: token ids (B, S)."""
        return self._model.expert(self._task).generate(inputs, how)

    def __call__(self, inputs: Mapping[str, Tensor], layers: Layers = ()) -> Outputs:
        """Run the expert on a batch."""
        batch = Batch(inputs, torch.empty(0, dtype=torch.long))
        (found,) = answers(self._model, self._source, [(self._task, batch)], layers)
        return found.outputs

    def outputs(self, batches: Iterable[Batch], layers: Layers = ()) -> Iterator[Answer]:
        """Run the expert on batches."""
        return answers(self._model, self._source, ((self._task, batch) for batch in batches), layers)


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
    source: Source,
    every: Iterable[tuple[str, Batch]],
    layers: Layers = (),
) -> Iterator[Answer]:
    """Run batches without gradient, as many together as may be held between blocks.

    Args:
        model: The blocks of every task's module, and where to compute.
        source: Where parameters come from.
        every: Tasks and batches.
        layers: Hidden states to return.

    Yields:
        One answer per batch, in their order.
    """
    blocks, queue, size = model.task_blocks, iter(every), WAVE
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
                note_read_outside(blocks.values(), error)


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
            most = max(most, *(size_of_call(one.call) for one in together))
            block = held_for(source, together, gradients=False)
            for one in together:
                own = block.of(one.blocks.expert.name, one.blocks.names(one.call.path))
                one.go_on(answer(one.call, one.block(), own))
                del own
                if one.turns.done:
                    ended[one.number] = outputs_of(
                        one.turns.take(), one.blocks.expert, every[one.number][1].inputs, layers
                    )
                while given in ended:
                    yield ended.pop(given), most
                    given += 1
            del block  # before the next one is made


def held_for(source: Source, passes: Sequence[Pass], *, gradients: bool) -> Held:
    """Make the parameters of the block that passes wait for."""
    wanted = [(one.blocks.expert.name, one.blocks.names(one.call.path)) for one in passes]
    return held(source, wanted, gradients=gradients)


def note_read_outside(blocks: Iterable[TaskBlocks], error: ReadOutsideError) -> None:
    """Merge a parameter that is read outside of its block before a pass begins, from now on."""
    if not any([one.read_outside(error.name) for one in blocks]):
        raise error
