"""Settings of learning and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from adamerge.data.settings import Batching
from adamerge.learning.keep_best import Watching
from adamerge.learning.merge_module import BuildScheduler
from adamerge.learning.trainer import build_trainer, process_count, rank_for, without_advice
from adamerge.merging.device import devices_of
from adamerge.objectives import Regulariser
from adamerge.optim import (
    BuildOptimizer,
    Circumstance,
    Descent,
    OptimizerKind,
    build_optimizer,
    check_pair,
)
from adamerge.optim.feasible_sets import FeasibleSet, Unbounded
from adamerge.types import Coefficients, ConfigError


@dataclass(frozen=True)
class Learning:
    """Settings of learning, independent of the objective.

    Attributes:
        optimizer: Updates the coefficients: options such as FrankWolfe(), or a callable that builds one of torch's
            optimisers; None if nothing is learned.
        scheduler: Called with the optimiser; cosine decays to 0 over max_steps, None keeps the learning rate.
        feasible: Feasible set of the coefficients.
        init: Coefficient of every expert at the start, or all coefficients (G, K).
        batching: Use of the calibration rows, for example rows per task per step.
        watching: Choice of the best iterate.
        seed: Random seed of the order of the rows.
        task_weights: Factor of each task's objective; 1 if absent.
        regulariser: Penalty on the distance from the start.
        trainer: Arguments of Lightning's Trainer, including `max_steps`; with 0 the start is the result.
    """

    optimizer: Descent | BuildOptimizer | None
    scheduler: Literal["cosine"] | BuildScheduler | None = None
    feasible: FeasibleSet = field(default_factory=Unbounded)
    init: float | Coefficients = 0.3
    batching: Batching = field(default_factory=Batching)
    watching: Watching = field(default_factory=Watching)
    seed: int = 0
    task_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    regulariser: Regulariser | None = None
    trainer: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def steps(self) -> int:
        """Maximum number of optimiser steps."""
        return int(str(self.trainer.get("max_steps", 100)))

    @property
    def build_scheduler(self) -> BuildScheduler | None:
        """Function that builds the scheduler for an optimiser; None keeps the learning rate."""
        return partial(CosineAnnealingLR, T_max=self.steps) if self.scheduler == "cosine" else self.scheduler


def check_learning(learning: Learning, experts: int) -> None:
    """Check settings before learning that Lightning and torch check only later, and combinations that are not defined.

    Args:
        learning: Settings of learning.
        experts: K, the number of task vectors.

    Raises:
        ConfigError: An option of the Trainer, the optimiser, the scheduler or the feasible set cannot be used, alone or
            with the others.
    """
    options = learning.trainer
    if learning.steps < 0:
        raise ConfigError(f"trainer.max_steps: expected 0 (nothing is learned) or more, found {learning.steps}.")
    if learning.steps == 0:
        return
    if learning.optimizer is None:
        raise ConfigError(
            "optimizer: expected an optimiser, for example Adam, found null. Name one, or set trainer.max_steps: 0."
        )
    if options.get("accumulate_grad_batches", 1) != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches: expected 1, because every accumulated batch would merge again. Raise "
            "data.batch_size instead; data.micro_batch splits it inside a step."
        )
    learning.feasible.check_experts(experts)
    if isinstance(learning.optimizer, Descent):
        check_pair(learning.optimizer.kind, learning.feasible, _circumstances(learning, learning.optimizer))
    if _is_fp16(learning):
        raise ConfigError(
            "trainer.precision: fp16 is not supported, because the merge would need its own loss scaling; use "
            "bf16-mixed or 32-true."
        )
    check_devices(options)
    if isinstance(learning.optimizer, Descent) and learning.watching.average:
        raise ConfigError(
            f"watch.average: expected 0 with {type(learning.optimizer).__name__}, whose steps are searched and whose "
            f"certificate is of its own iterates, found {learning.watching.average}. Set watch.average: 0."
        )
    optimizer = _built(learning, learning.optimizer, experts)
    if isinstance(optimizer, LBFGS):
        check_pair(OptimizerKind.TORCH_LBFGS, learning.feasible, _circumstances(learning, learning.optimizer))


def check_devices(options: Mapping[str, object]) -> None:
    """Check the Trainer's devices.

    Args:
        options: Arguments of Lightning's Trainer.

    Raises:
        ConfigError: They are no number, more than there are, or cannot learn by their strategy.
    """
    for key in ("devices", "num_nodes"):
        found = options.get(key, 1)
        if not isinstance(found, int) or found < 1:
            raise ConfigError(f"trainer.{key}: expected a number of at least 1, found {found!r}.")
    if (strategy := options.get("strategy", "auto")) not in ("auto", "ddp", "fsdp2"):
        raise ConfigError(
            f"trainer.strategy: expected ddp (every device holds the whole model) or fsdp2 (each holds a part), found "
            f"{strategy!r}."
        )
    if strategy == "fsdp2" and process_count(options) == 1:
        raise ConfigError(
            "trainer.strategy: expected several devices for fsdp2, which divides the model among them, found one. Set "
            "trainer.devices or num_nodes; on one device, memory: streamed holds one block of the model at a time."
        )
    there, what = devices_of(str(options.get("accelerator", "auto")))
    if int(str(options.get("devices", 1))) > max(1, there):
        raise ConfigError(
            f"trainer.devices: expected at most {there}, the number of this machine's {what}, found "
            f"{options.get('devices')}. Lower it, or use more machines (trainer.num_nodes)."
        )


def _built(learning: Learning, chosen: Descent | BuildOptimizer, experts: int) -> Optimizer:
    """Build trainer, optimiser and scheduler on temporary coefficients, to check their options; return the optimiser.

    Raises:
        ConfigError: One of them rejects its options.
    """
    key = "trainer"
    try:
        with without_advice(), rank_for(learning.trainer):
            build_trainer({k: v for k, v in learning.trainer.items() if k != "logger"}, [])  # it is built later
        key = "optimizer"
        probe = torch.nn.Parameter(learning.feasible.project(torch.zeros(1, experts)))
        optimizer = build_optimizer(chosen, probe, learning.feasible)
        key = "lr_scheduler"
        scheduler = learning.build_scheduler
        if scheduler:
            scheduler(optimizer)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from error
    return optimizer


def _circumstances(learning: Learning, optimizer: Descent | BuildOptimizer) -> list[Circumstance]:
    precision = str(learning.trainer.get("precision", ""))
    idle = isinstance(optimizer, Descent) and not optimizer.uses_lr
    there = {
        Circumstance.CLIPPING: bool(learning.trainer.get("gradient_clip_val")),
        Circumstance.FP16: _is_fp16(learning),
        Circumstance.BF16: precision.startswith("bf16"),
        Circumstance.MINI_BATCHES: learning.batching.batch_size is not None,
        Circumstance.SEVERAL_PROCESSES: process_count(learning.trainer) > 1,
        Circumstance.IDLE_SCHEDULER: learning.scheduler is not None and idle,
    }
    return [circumstance for circumstance, is_so in there.items() if is_so]


def _is_fp16(learning: Learning) -> bool:
    return str(learning.trainer.get("precision", "")) in ("16", "16-mixed", "16-true")
