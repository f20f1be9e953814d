"""What an execution is: losses and the coefficients' gradient, or tasks' outputs, from coefficients and work.

    ∂L/∂C[g, k] = Σ over tasks t of ⟨∂Lₜ/∂merged, ∂merged/∂C[g, k]⟩,    merged = combine(C)

Callers pass coefficients and work (batches, and loss functions of the model's outputs) and get back losses, gradients
and outputs. They never hold merged parameters, so an execution decides how many of them exist at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeAlias

from torch import Tensor
from transformers import GenerationConfig

from adamerge.batch import Batch, Outputs
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.forward_pass import Layers
from adamerge.types import Coefficients

Generate: TypeAlias = Callable[[Mapping[str, Tensor], GenerationConfig], Tensor]
"""Generates token ids, (B, S), to a batch of prompts on the model's device."""

Loss: TypeAlias = Callable[[Outputs, Batch], Tensor]
"""A scalar of the merged model's outputs on a batch; the batch is on the model's device."""


class Chunks(NamedTuple):
    """A loss in parts that add up to it.

    Attributes:
        rest: What does not depend on logits; None if everything does.
        parts: Positions, and the loss of their logits (B, s, C).
    """

    rest: Tensor | None
    parts: Iterable[tuple[slice, Callable[[Tensor], Tensor]]]


class Work(NamedTuple):
    """One forward and backward pass of a task's model.

    Attributes:
        batch: The rows, on any device.
        loss: Loss to differentiate; the losses of a task's batches are summed.
        chunks: The same loss in parts, given outputs whose logits have only a shape, the batch, and how many positions
            a part has; None if it is no mean over positions.
    """

    batch: Batch
    loss: Loss
    chunks: Callable[[Outputs, Batch, int], Chunks] | None = None


class Step(NamedTuple):
    """Result of one evaluation of all tasks' losses.

    Attributes:
        losses: Lₜ per task, detached scalars.
        gradient: ∂(Σₜ Lₜ)/∂C, (G, K), in the dtype of the coefficients.
        cosines: Scores of experts and centre, (G, K + 1), if requested.
    """

    losses: dict[str, Tensor]
    gradient: Coefficients
    cosines: Tensor | None


class Answer(NamedTuple):
    """A task's outputs on one batch.

    Attributes:
        task: Name of the task.
        batch: Rows, on the model's device.
        outputs: Outputs of the task's model, without gradient.
    """

    task: str
    batch: Batch
    outputs: Outputs


class Merged(ABC):
    """The model merged with fixed coefficients; valid inside the `with` block of `Execution.at`."""

    @abstractmethod
    def outputs(
        self, batches: Mapping[str, Iterable[Batch]], layers: Layers = (), own_head: bool = True
    ) -> Iterator[Answer]:
        """Run tasks' models without gradient.

        Args:
            batches: Batches per task; each iterable is read once, when its task runs.
            layers: Hidden states to return.
            own_head: Whether to use each expert's head, or the base's.

        Yields:
            One answer per batch: tasks in the order of the mapping, a task's batches in their own order.
        """

    @abstractmethod
    def generator(self, task: str, own_head: bool = True) -> Generate:
        """Return the `generate` of one task's model; it holds all its parameters in memory for as long as it lives.

        Args:
            task: Name of the task.
            own_head: Whether to use the expert's head, or the base's.
        """

    @abstractmethod
    def parameter(self, name: str) -> Tensor:
        """Return one merged parameter, in the dtype and on the device of the task vectors; do not change it."""


class Execution(ABC):
    """How merged parameters are computed, used and freed; they exist only during a call or a `with` block.

    Attributes:
        in_step: Whether all processes must run as many passes of each task, in one order.
    """

    in_step: bool = False

    @abstractmethod
    def losses_and_gradient(
        self,
        coefficients: Coefficients,
        work: Mapping[str, Iterable[Work]],
        layers: Layers = (),
        cosines: ExpertCosines | None = None,
    ) -> Step:
        """Evaluate every task's loss and the gradient of their sum in the coefficients.

        Args:
            coefficients: C, (G, K).
            work: Batches and losses per task; each iterable is read once, when its task runs.
            layers: Hidden states that the losses need.
            cosines: Computes cosines of the gradient in the merged parameters with experts and centre.
        """

    @abstractmethod
    def at(self, coefficients: Coefficients) -> AbstractContextManager[Merged]:
        """Fix the coefficients (G, K), for runs without gradient of the model as it would be written (rounded).

        Example:
            >>> import torch
            >>> from adamerge.batch import Batch
            >>> from adamerge.experts.from_modules import from_modules
            >>> from adamerge.merging.execution import execution_of
            >>> from adamerge.merging.grouping import task_wise
            >>> from adamerge.merging.merged_model import MergedModel, task_vectors
            >>> base, expert = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
            >>> _ = base.weight.data.fill_(1.0), expert.weight.data.fill_(3.0)
            >>> experts = from_modules(base, {"a": expert})
            >>> model = MergedModel(experts, task_vectors(experts, experts.shared), task_wise(experts.shared))
            >>> batch = Batch({"input": torch.ones(1, 2)}, torch.tensor([0]))
            >>> with execution_of(model).at(torch.tensor([[0.5]])) as merged:
            ...     [answer.outputs.logits.tolist() for answer in merged.outputs({"a": [batch]})]
            [[[4.0]]]
        """
