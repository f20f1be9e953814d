"""Execution on several devices of which none holds the merged model: `trainer.strategy: fsdp2`.

Every process runs its own rows of every task through modules whose parameters are gathered block by block, so all must
run as many passes of every task, in one order. Gradients come back in shards, and each process takes inner on its own.
"""

# pyright: standard

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.batch import Batch
from adamerge.data.rows import move
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.forward_pass import Layers, arguments_of, outputs_of
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.shards import Shards
from adamerge.merging.work import Answer, Execution, Generate, Merged, Step, Work
from adamerge.optim.processes import others_may_end
from adamerge.types import Coefficients, ConfigError


class ShardedExecution(Execution):
    """Merge this process's rows, and run passes together with the other processes.

    The gradient is this process's part; the parts of all processes add up to that of all their losses.

    Args:
        shards: This process's rows.
        model: Experts and grouping.
    """

    in_step = True

    def __init__(self, shards: Shards, model: MergedModel) -> None:
        self._shards, self._model, self._grouping = shards, model, shards.grouping(model.grouping)

    @override
    def losses_and_gradient(
        self,
        coefficients: Coefficients,
        work: Mapping[str, Iterable[Work]],
        layers: Layers = (),
        cosines: ExpertCosines | None = None,
    ) -> Step:
        assert cosines is None  # refused for several processes
        losses = {task: coefficients.new_zeros(()) for task in work}
        with others_may_end():
            self._shards.write(coefficients, self._grouping)
            for task, own in work.items():
                for batch, loss_of, _ in own:
                    answer = _answer(self._shards, self._model, task, batch, layers)
                    loss = loss_of(answer.outputs, answer.batch)
                    loss.backward()
                    losses[task] += loss.detach().to(coefficients)
            return Step(losses, self._shards.gradient(self._grouping).to(coefficients), None)

    @override
    @contextmanager
    def at(self, coefficients: Coefficients) -> Generator[Merged]:
        self._shards.write(coefficients, self._grouping, self._model.rounding.as_written)
        yield _ShardedMerged(self._shards, self._model)
        self._shards.check_order()


class _ShardedMerged(Merged):
    def __init__(self, shards: Shards, model: MergedModel) -> None:
        self._shards, self._model = shards, model

    @override
    def outputs(
        self, batches: Mapping[str, Iterable[Batch]], layers: Layers = (), own_head: bool = True
    ) -> Iterator[Answer]:
        assert own_head  # the base's is used after learning, by one process
        for task, own in batches.items():
            for batch in own:
                with others_may_end(), torch.no_grad():
                    answer = _answer(self._shards, self._model, task, batch, layers)
                yield answer

    @override
    def generator(self, task: str, own_head: bool = True) -> Generate:
        raise ConfigError(f"{task}: expected one process to generate, found a model that several have parts of.")

    @override
    def parameter(self, name: str) -> Tensor:
        return self._shards.whole(name)


def _answer(shards: Shards, model: MergedModel, task: str, batch: Batch, layers: Layers) -> Answer:
    batch = move(batch, model.vectors.device, model.vectors.dtype)
    expert = model.experts.models[task]
    output = shards.run(task, arguments_of(expert, batch.inputs, layers))
    return Answer(task, batch, outputs_of(output, expert, batch.inputs, layers))
