"""The Lightning module: one step over all tasks; nothing mathematical inside."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from typing_extensions import override

from adamerge.calibration.targets import Targets
from adamerge.data.rows import Rows, count, move
from adamerge.data.schedule import Schedule
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.merged_model import MergedModel
from adamerge.objectives import Objective, Regulariser
from adamerge.optim import BuildOptimizer, Descent, build_optimizer
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.types import Coefficients, Parameters

BuildScheduler: TypeAlias = Callable[[Optimizer], LRScheduler]


class MergeModule(LightningModule):
    """Learns coefficients; they are its only parameters.

    A step merges once, lets every task's loss run backward into the merged leaves (a task's activations are freed
    before the next task starts), and takes the inner products once. What it returns has the loss's value and the
    coefficients' exact gradient, so Lightning's own loop, closures and schedulers work on it as they are.

    Base and experts are no submodules: else Lightning would move, broadcast and checkpoint them.

    Args:
        model: All tasks' models over merged parameters.
        objective: What is made small.
        rows: Calibration rows by task.
        schedule: Which of them a step takes.
        init: Coefficients at the start, (G, K).
        feasible: Where coefficients may live.
        optimizer: Moves the coefficients.
        task_weights: Factor of each task's objective; 1 where absent.
        targets: The experts' outputs on their rows by task, for objectives that compare with them.
        regulariser: A pull of the coefficients towards the start.
        build_scheduler: Called with the optimiser; its schedule is stepped after every step.
        micro_batch: Rows that pass a model together; a task's larger batch is split.
    """

    def __init__(
        self,
        model: MergedModel,
        objective: Objective,
        rows: Mapping[str, Rows],
        schedule: Schedule,
        init: Coefficients,
        feasible: FeasibleSet,
        optimizer: Descent | BuildOptimizer,
        *,
        task_weights: Mapping[str, float] | None = None,
        targets: Mapping[str, Targets] | None = None,
        regulariser: Regulariser | None = None,
        build_scheduler: BuildScheduler | None = None,
        micro_batch: int = 64,
    ) -> None:
        super().__init__()
        start = feasible.project(init)
        self.coefficients = nn.Parameter(start.clone())
        self._model = (model,)  # in a tuple nn.Module does not look for submodules
        self._objective, self._rows, self._schedule, self._feasible = objective, rows, schedule, feasible
        self._optimizer, self._build_scheduler = optimizer, build_scheduler
        scored = isinstance(optimizer, Descent) and optimizer.uses_cosines
        self._cosines = ExpertCosines(model.vectors, model.grouping) if scored else None
        self._scores = torch.empty(0)  # of the last evaluation, for an optimiser that selects by cosine
        self._task_weights, self._targets, self._micro_batch = task_weights or {}, targets, micro_batch
        self._regulariser, self._start = regulariser, start

    @property
    def model(self) -> MergedModel:
        """All tasks' models over merged parameters."""
        return self._model[0]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """One merge, every task's loss backward, one pass of inner products."""
        del batch, batch_idx  # a batch is a pure function of the seed and the step
        merged = self.model.merge(self.coefficients)
        loss = sum(self._backward(task, merged) for task in self._rows)
        gradient = self.model.gradient(merged).to(self.coefficients.dtype)
        if self._cosines is not None:
            self._scores = self._cosines({name: leaf.grad for name, leaf in merged.items() if leaf.grad is not None})
        total = surrogate(torch.as_tensor(loss), self.coefficients, gradient)
        if self._regulariser is not None:
            total = total + self._regulariser(self.coefficients, self._start.to(self.coefficients))
        self._log(total.detach())
        return total

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | Optimizer:
        """The optimiser, whose iterates stay in the feasible set."""
        optimizer = build_optimizer(self._optimizer, self.coefficients, self._feasible, lambda: self._scores)
        if self._build_scheduler is None:
            return optimizer
        scheduler = LRSchedulerConfigType(scheduler=self._build_scheduler(optimizer), interval="step")
        return OptimizerLRSchedulerConfig(optimizer=optimizer, lr_scheduler=scheduler)

    def train_dataloader(self) -> DataLoader[int]:
        """Counts steps; the rows of a step follow from its number alone."""
        return DataLoader(range(max(1, self.trainer.max_steps)), batch_size=None)  # pyright: ignore

    def _backward(self, task: str, merged: Parameters) -> Tensor:
        """Leave one task's gradient in the merged leaves; returns its weighted objective."""
        chosen = self._schedule.rows(self.global_step, self.model.tasks.index(task), len(self._rows[task]))
        batches = list(self._rows[task].batches(self._micro_batch, chosen))
        weight = self._task_weights.get(task, 1.0) / sum(count(batch) for batch in batches)
        total = torch.zeros((), dtype=self.coefficients.dtype, device=self.coefficients.device)
        for batch in batches:
            batch = move(batch, self.model.vectors.device, self.model.vectors.dtype)
            outputs = self.model.forward(task, merged, batch.inputs, self._objective.layers)
            targets = self._targets[task](batch, outputs) if self._targets else None
            loss = weight * count(batch) * self._objective(outputs, batch, targets)
            loss.backward()
            total += loss.detach()
        return total

    def _log(self, loss: Tensor) -> None:
        low, high = self.coefficients.detach().aminmax()
        self.log_dict({"loss": loss, "c_min": low, "c_max": high}, prog_bar=True)


def surrogate(loss: Tensor, coefficients: Coefficients, gradient: Coefficients) -> Tensor:
    """A scalar with the value of `loss` whose gradient in the coefficients is `gradient`.

    L + ⟨C, g⟩ − stop_gradient(⟨C, g⟩), with L and g constants.

    Example:
        >>> c = torch.ones(2, 1, requires_grad=True)
        >>> value = surrogate(torch.tensor(5.0), c, torch.tensor([[1.0], [2.0]]))
        >>> value.backward()
        >>> value.item(), c.grad.tolist()
        (5.0, [[1.0], [2.0]])
    """
    linear = (coefficients * gradient.detach()).sum()
    return loss.detach() + linear - linear.detach()
