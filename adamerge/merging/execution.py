"""Executions: all merged parameters at once in memory, or one block of the model at a time (streamed.py)."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig
from typing_extensions import override

from adamerge.batch import Batch, Outputs
from adamerge.data.rows import move
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.forward_pass import Layers
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.recomputation import backward
from adamerge.merging.streamed import StreamedExecution
from adamerge.merging.streamed_outputs import StreamedExpert
from adamerge.merging.work import Answer, Execution, Generate, Merged, Step, Work
from adamerge.types import Coefficients, Parameters


class InMemoryExecution(Execution):
    """Merge all parameters at once in memory; run tasks, and their batches, one after another.

    Args:
        model: Experts, task vectors and grouping.
    """

    def __init__(self, model: MergedModel) -> None:
        self._model = model

    @override
    def losses_and_gradient(
        self,
        coefficients: Coefficients,
        work: Mapping[str, Iterable[Work]],
        layers: Layers = (),
        cosines: ExpertCosines | None = None,
    ) -> Step:
        merged = _merge(self._model, coefficients)
        # Detached, because autocast casts a view again wherever it is used, and any other leaf once per step.
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in merged.items()}
        losses = {task: coefficients.new_zeros(()) for task in work}
        for task, own in work.items():
            for loss in self._backward(task, leaves, own, layers):
                losses[task] += loss.to(coefficients.device)
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        gradient = self._model.vectors.inner(gradients, self._model.grouping).to(coefficients)
        return Step(losses, gradient, cosines(gradients) if cosines else None)

    @override
    @contextmanager
    def at(self, coefficients: Coefficients) -> Generator[Merged]:
        round_one = self._model.rounding.as_written
        parameters = {name: round_one(name, value) for name, value in _merge(self._model, coefficients).items()}
        try:
            yield _InMemoryMerged(self._model, parameters)
        finally:
            parameters.clear()

    def _backward(self, task: str, leaves: Parameters, work: Iterable[Work], layers: Layers) -> Iterator[Tensor]:
        """Add one task's gradient to the merged leaves; each batch's activations are freed before the next batch."""
        for batch, loss_of, _ in work:
            batch = _moved(self._model, batch)
            loss = loss_of(self._model.forward(task, leaves, batch.inputs, layers), batch)
            backward(loss)
            yield loss.detach()


class _InMemoryMerged(Merged):
    def __init__(self, model: MergedModel, parameters: Parameters) -> None:
        self._model, self._parameters = model, parameters

    @override
    def outputs(
        self, batches: Mapping[str, Iterable[Batch]], layers: Layers = (), own_head: bool = True
    ) -> Iterator[Answer]:
        for task, own in batches.items():
            for batch in own:
                batch = _moved(self._model, batch)
                with torch.no_grad():
                    outputs = self._model.forward(task, self._parameters, batch.inputs, layers, own_head)
                yield Answer(task, batch, outputs)

    @override
    def generator(self, task: str, own_head: bool = True) -> Generate:
        return self._model.generator(task, self._parameters, own_head)

    @override
    def parameter(self, name: str) -> Tensor:
        return self._parameters[name]


def execution_of(model: MergedModel) -> Execution:
    """Return the execution to learn and measure a model with."""
    if model.executed is not None:
        return model.executed(model)
    return InMemoryExecution(model) if model.blocks is None else StreamedExecution(model)


class ResidentExpert:
    """A task's unmerged expert, placed on the device for as long as this object lives.

    Args:
        model: Experts, and where to compute.
        task: Name of the task.
    """

    def __init__(self, model: MergedModel, task: str) -> None:
        self._model, self._task, self._expert = model, task, model.expert(task)

    @property
    def random(self) -> bool:
        """Whether a pass drew random numbers."""
        return self._model.experts.models[self._task].forward.random

    def generate(self, inputs: Mapping[str, Tensor], how: GenerationConfig) -> Tensor:
        """Generate by the class's own `generate`: token ids (B, S)."""
        return self._expert.generate(inputs, how)

    def __call__(self, inputs: Mapping[str, Tensor], layers: Layers = ()) -> Outputs:
        """Run the expert on a batch."""
        return self._expert(inputs, layers)

    def outputs(self, batches: Iterable[Batch], layers: Layers = ()) -> Iterator[Answer]:
        """Run the expert on batches."""
        for batch in batches:
            batch = _moved(self._model, batch)
            yield Answer(self._task, batch, self._expert(batch.inputs, layers))


def expert_of(model: MergedModel, task: str) -> ResidentExpert | StreamedExpert:
    """Return a task's unmerged expert, to run as a whole or one block at a time."""
    return ResidentExpert(model, task) if model.blocks is None else StreamedExpert(model, task)


def _merge(model: MergedModel, coefficients: Coefficients) -> dict[str, Tensor]:
    model.check_files()
    return model.vectors.combine(coefficients, model.grouping)


def _moved(model: MergedModel, batch: Batch) -> Batch:
    return move(batch, model.vectors.device, model.vectors.dtype)
