"""The Lightning module: one step over all tasks, without mathematics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TypeAlias

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from typing_extensions import override

from adamerge.batch import Batch, Outputs
from adamerge.calibration.agreement import objective_of
from adamerge.calibration.targets import Targets
from adamerge.data.rows import Rows, count
from adamerge.data.schedule import Schedule
from adamerge.learning.loss_in_chunks import in_chunks
from adamerge.merging.execution import execution_of
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.work import Chunks, Step, Work
from adamerge.objectives import Objective, Regulariser
from adamerge.optim import BuildOptimizer, Descent, build_optimizer
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.optim.processes import most_over_processes, rank_and_count, share_of, sum_over_processes
from adamerge.types import Coefficients

BuildScheduler: TypeAlias = Callable[[Optimizer], LRScheduler]


class MergeModule(LightningModule):
    """Lightning module whose only parameters are the coefficients.

    A step gets every task's loss and the gradient in the coefficients from the execution. It returns a scalar with the
    value of the loss and this exact gradient, so Lightning's loop, closures and schedulers work unchanged.

    Base and experts are not submodules: otherwise Lightning would move, broadcast and checkpoint them.

    Args:
        model: All tasks' models over merged parameters.
        objective: The objective to minimise.
        rows: Calibration rows by task.
        schedule: Chooses the rows of a step.
        init: Coefficients at the start, (G, K).
        feasible: Feasible set of the coefficients.
        optimizer: Updates the coefficients.
        task_weights: Factor of each task's objective; 1 if absent.
        targets: The experts' outputs on their rows by task, for objectives that compare with them.
        regulariser: Penalty on the distance from the start.
        build_scheduler: Called with the optimiser; the scheduler is stepped after every step.
        micro_batch: Rows per forward pass; a larger batch of a task is split.
    """

    _start: Tensor

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
        self._model = (model,)  # nn.Module does not register submodules in a tuple
        self._execution = execution_of(model)
        self._layers, self._rows, self._schedule, self._feasible = objective.layers, rows, schedule, feasible
        self._objectives = {task: objective_of(task, objective) for task in rows}
        self._turns = {task: turn for turn, task in enumerate(model.experts.models)}
        self._optimizer, self._build_scheduler = optimizer, build_scheduler
        scored = isinstance(optimizer, Descent) and optimizer.uses_cosines
        self._cosines = ExpertCosines(model.vectors, model.grouping) if scored else None
        self._scores = torch.empty(0)  # of the last evaluation, for an optimiser that selects by cosine
        self._task_weights, self._targets, self._micro_batch = task_weights or {}, targets or {}, micro_batch
        self._counted: tuple[int | None, Mapping[str, float]] | None = None
        self._regulariser = regulariser
        self.register_buffer("_start", start, persistent=False)  # it moves to the coefficients' device

    @property
    def model(self) -> MergedModel:
        """All tasks' models over merged parameters."""
        return self._model[0]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Compute the sum of all tasks' losses at the coefficients, with its exact gradient."""
        del batch, batch_idx  # a batch is a pure function of the seed and the step
        shares = {task: self._share(task) for task in self._rows}
        totals = self._totals(shares)
        work = {task: self._work(task, share, totals.get(task)) for task, share in shares.items() if len(share)}
        if self._execution.in_step:
            work = self._in_step(shares, work)
        step = self._step(work)
        self._scores = self._scores if step.cosines is None else step.cosines
        loss, gradient = _of_all_processes(torch.as_tensor(sum(step.losses.values())), step.gradient)
        total = surrogate(loss, self.coefficients, gradient)
        if self._regulariser is not None:
            total = total + self._regulariser(self.coefficients, self._start.to(self.coefficients))
        self.log("loss", total.detach(), prog_bar=True, logger=False)  # `KeepBest` logs whole steps
        return total

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | Optimizer:
        """Build the optimiser, whose iterates stay in the feasible set."""
        optimizer = build_optimizer(self._optimizer, self.coefficients, self._feasible, lambda: self._scores)
        if self._build_scheduler is None:
            return optimizer
        scheduler = LRSchedulerConfigType(scheduler=self._build_scheduler(optimizer), interval="step")
        return OptimizerLRSchedulerConfig(optimizer=optimizer, lr_scheduler=scheduler)

    def train_dataloader(self) -> DataLoader[int]:
        """Return a loader that counts steps; the rows of a step depend on its number alone."""
        return DataLoader(range(max(1, self.trainer.max_steps)), batch_size=None)  # pyright: ignore

    def _step(self, work: Mapping[str, Iterator[Work]]) -> Step:
        """Run this process's share of the rows; it may have none."""
        if not work:
            return Step({}, torch.zeros_like(self.coefficients), None)
        return self._execution.losses_and_gradient(self.coefficients, work, self._layers, self._cosines)

    def _share(self, task: str) -> Sequence[int]:
        """List this process's share of one task's rows at this step, the longest first."""
        rows, turn = self._rows[task], self._turns[task]
        return share_of(rows.by_length(self._schedule.rows(self.global_step, turn, len(rows))), turn)

    def _totals(self, shares: Mapping[str, Sequence[int]]) -> Mapping[str, float]:
        """Count what each task's objective is a mean over, in all processes; empty where this one is alone."""
        step = None if self._schedule.size is None else self.global_step
        if rank_and_count()[1] > 1 and (not self._counted or self._counted[0] != step):
            own = [self._count(task, share) for task, share in shares.items()]
            summed = sum_over_processes(torch.tensor(own, dtype=torch.float64, device=self.coefficients.device))
            self._counted = (step, dict(zip(shares, summed.tolist(), strict=True)))
        return self._counted[1] if self._counted else {}

    def _in_step(
        self, shares: Mapping[str, Sequence[int]], work: Mapping[str, Iterator[Work]]
    ) -> Mapping[str, Iterator[Work]]:
        """Add passes of weight 0, until this process has as many of each task as any other."""
        own = [sum(1 for _ in self._rows[task].divided(self._micro_batch, share)) for task, share in shares.items()]
        counts = torch.tensor(own, dtype=torch.float64, device=self.coefficients.device)
        missing = (most_over_processes(counts) - counts).long().tolist()
        return {
            task: chain(work.get(task, iter(())), self._idle(task, number))
            for task, number in zip(shares, missing, strict=True)
        }

    def _idle(self, task: str, number: int) -> Iterator[Work]:
        """Yield work on a row of this step that changes neither loss nor gradient."""
        rows = self._rows[task]
        row = self._schedule.rows(self.global_step, self._turns[task], len(rows))[:1]
        return (Work(rows.batch(row), partial(self._loss, task, 0.0)) for _ in range(number))

    def _count(self, task: str, share: Sequence[int]) -> int:
        """Count the terms of a mean over some rows of one task; their batches are made for it."""
        return sum(count(batch) for batch in self._rows[task].batches(self._micro_batch, share))

    def _work(self, task: str, share: Sequence[int], total: float | None) -> Iterator[Work]:
        """Yield micro-batches of one task's rows; all processes' losses add up to its weighted objective."""
        batches = list(self._rows[task].batches(self._micro_batch, share))
        total = sum(count(batch) for batch in batches) if total is None else total
        weight = self._task_weights.get(task, 1.0) / total
        for batch in batches:
            of_batch = weight * count(batch)
            chunks = partial(self._chunks, task, of_batch) if self._objectives[task].by_position else None
            yield Work(batch, partial(self._loss, task, of_batch), chunks)

    def _loss(self, task: str, weight: float, outputs: Outputs, batch: Batch) -> Tensor:
        return weight * self._objectives[task](outputs, batch, self._goal(task, outputs, batch))

    def _chunks(self, task: str, weight: float, outputs: Outputs, batch: Batch, size: int) -> Chunks:
        return in_chunks(self._objectives[task], weight, outputs, batch, self._goal(task, outputs, batch), size)

    def _goal(self, task: str, outputs: Outputs, batch: Batch) -> Outputs | None:
        return self._targets[task](batch, outputs) if task in self._targets else None


def _of_all_processes(loss: Tensor, gradient: Coefficients) -> tuple[Tensor, Coefficients]:
    """Add up the loss and its gradient over all processes; so no process needs to know what the others have."""
    both = sum_over_processes(torch.cat([gradient.flatten(), loss.reshape(1).to(gradient)]))
    return both[-1], both[:-1].view_as(gradient)


def surrogate(loss: Tensor, coefficients: Coefficients, gradient: Coefficients) -> Tensor:
    """Build a scalar with the value of `loss` whose gradient in the coefficients is `gradient`.

    L + ⟨C, g⟩ − stop_gradient(⟨C, g⟩), with L and g constants.

    Args:
        loss: L, a scalar.
        coefficients: C, (G, K).
        gradient: g, (G, K).

    Returns:
        The scalar.

    Example:
        >>> c = torch.ones(2, 1, requires_grad=True)
        >>> value = surrogate(torch.tensor(5.0), c, torch.tensor([[1.0], [2.0]]))
        >>> value.backward()
        >>> value.item(), c.grad.tolist()
        (5.0, [[1.0], [2.0]])
    """
    linear = (coefficients * gradient.detach()).sum()
    return loss.detach() + linear - linear.detach()
