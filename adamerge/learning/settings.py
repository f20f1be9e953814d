"""Settings of learning and their checks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from adamerge.data.settings import Batching
from adamerge.learning.keep_best import Watching
from adamerge.learning.merge_module import BuildScheduler
from adamerge.learning.trainer import build_trainer, process_count, rank_for, without_advice
from adamerge.learning.try_schedule import build_schedule, try_schedule
from adamerge.merging.device import BF16, devices_of
from adamerge.objectives import Regulariser
from adamerge.optim import (
    BuildOptimizer,
    Circumstance,
    Descent,
    OptimizerKind,
    build_optimizer,
    check_circumstance,
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
    def bf16(self) -> bool:
        """Whether passes compute in bf16, by autocast."""
        return self.trainer.get("precision") == BF16

    @property
    def build_scheduler(self) -> BuildScheduler | None:
        """Function that builds the scheduler for an optimiser; None keeps the learning rate."""
        return partial(CosineAnnealingLR, T_max=self.steps) if self.scheduler == "cosine" else self.scheduler


class Judgement(NamedTuple):
    """A check of settings that only together can be right.

    Attributes:
        keys: Their dotted keys in a configuration.
        check: Raises ConfigError if they cannot be used together.
        here: Whether it depends on this machine.
    """

    keys: Sequence[str]
    check: Callable[[], object]
    here: bool = False


def check_learning(learning: Learning, experts: int) -> None:
    """Check settings before learning that Lightning and torch check only later, and combinations that are not defined.

    Args:
        learning: Settings of learning.
        experts: K, the number of task vectors.

    Raises:
        ConfigError: An option of the Trainer, the optimiser, the scheduler or the feasible set cannot be used, alone or
            with the others.
    """
    for judgement in judgements(learning, experts):
        judgement.check()
    if learning.steps:
        _check_trainer(learning.trainer)


def judgements(learning: Learning, experts: int) -> Iterator[Judgement]:
    """Yield every check of settings that only together can be right; without steps they do not matter.

    Args:
        learning: Settings of learning.
        experts: K, the number of task vectors.
    """
    yield Judgement(["trainer.max_steps"], partial(_check_steps, learning))
    if learning.steps == 0:
        return
    yield Judgement(["optimizer"], partial(_check_optimizer, learning))
    yield Judgement(["trainer.accumulate_grad_batches"], partial(_check_accumulation, learning.trainer))
    yield Judgement(["feasible", "models"], partial(learning.feasible.check_experts, experts))
    yield from _pairs(learning)
    yield Judgement(["trainer.precision"], partial(_check_precision, learning))
    yield Judgement(["trainer.strategy", "trainer.devices"], partial(_check_strategy, learning.trainer))
    yield Judgement(["trainer.devices", "trainer.accelerator"], partial(_check_available, learning.trainer), here=True)
    yield Judgement(["watch.average", "optimizer"], partial(_check_average, learning))
    yield Judgement(["optimizer", "feasible", "models"], partial(_built, learning, experts))
    yield Judgement(["lr_scheduler", "optimizer"], partial(_scheduled, learning, experts, build_schedule))
    tried = partial(try_schedule, steps=learning.steps)
    yield Judgement(["lr_scheduler", "trainer.max_steps"], partial(_scheduled, learning, experts, tried))


def _pairs(learning: Learning) -> Iterator[Judgement]:
    """Yield the checks of the optimiser with the feasible set, and with what learning comes with."""
    kind = kind_of(learning.optimizer)
    if kind is not None:
        yield Judgement(["optimizer", "feasible"], partial(check_pair, kind, learning.feasible))
        for circumstance in _circumstances(learning):
            keys = ["optimizer", KEYS[circumstance]]
            yield Judgement(keys, partial(check_circumstance, kind, circumstance))


def kind_of(optimizer: Descent | BuildOptimizer | None) -> OptimizerKind | None:
    """Return the kind of an optimiser that some choices exclude; None for others."""
    if isinstance(optimizer, Descent):
        return optimizer.kind
    cls = getattr(optimizer, "func", optimizer)
    return OptimizerKind.TORCH_LBFGS if isinstance(cls, type) and issubclass(cls, LBFGS) else None


def _check_steps(learning: Learning) -> None:
    if learning.steps < 0:
        raise ConfigError(f"trainer.max_steps: expected 0 (nothing is learned) or more, found {learning.steps}.")


def _check_optimizer(learning: Learning) -> None:
    if learning.optimizer is None:
        raise ConfigError(
            "optimizer: expected an optimiser, for example Adam, found null. Name one, or set trainer.max_steps: 0."
        )


def _check_accumulation(options: Mapping[str, object]) -> None:
    if options.get("accumulate_grad_batches", 1) != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches: expected 1, because every accumulated batch would merge again. Raise "
            "data.batch_size instead; data.micro_batch splits it inside a step."
        )


def _check_precision(learning: Learning) -> None:
    if _is_fp16(learning):
        raise ConfigError(
            "trainer.precision: fp16 is not supported, because the merge would need its own loss scaling; use "
            "bf16-mixed or 32-true."
        )


def _check_average(learning: Learning) -> None:
    if isinstance(learning.optimizer, Descent) and learning.watching.average:
        raise ConfigError(
            f"watch.average: expected 0 with {type(learning.optimizer).__name__}, whose steps are searched and whose "
            f"certificate is of its own iterates, found {learning.watching.average}. Set watch.average: 0."
        )


def check_devices(options: Mapping[str, object]) -> None:
    """Check the Trainer's devices.

    Args:
        options: Arguments of Lightning's Trainer.

    Raises:
        ConfigError: They are no number, more than there are, or cannot learn by their strategy.
    """
    _check_strategy(options)
    _check_available(options)


def _check_strategy(options: Mapping[str, object]) -> None:
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


def _check_available(options: Mapping[str, object]) -> None:
    there, what = devices_of(str(options.get("accelerator", "auto")))
    if int(str(options.get("devices", 1))) > max(1, there):
        raise ConfigError(
            f"trainer.devices: expected at most {there}, the number of this machine's {what}, found "
            f"{options.get('devices')}. Lower it, or use more machines (trainer.num_nodes)."
        )


def _check_trainer(options: Mapping[str, object]) -> None:
    """Build the Trainer, to check its options.

    Raises:
        ConfigError: Lightning rejects them.
    """
    try:
        with without_advice(), rank_for(options):
            build_trainer({k: v for k, v in options.items() if k != "logger"}, [])  # it is built later
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {error}") from error


def _built(learning: Learning, experts: int) -> Optimizer | None:
    """Build the optimiser on temporary coefficients, to check its options.

    Raises:
        ConfigError: It rejects its options.
    """
    if learning.optimizer is None:
        return None
    try:
        probe = torch.nn.Parameter(learning.feasible.project(torch.zeros(1, experts)))
        optimizer = build_optimizer(learning.optimizer, probe, learning.feasible)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    if isinstance(optimizer, LBFGS) and kind_of(learning.optimizer) is None:  # from a function of Python
        check_pair(OptimizerKind.TORCH_LBFGS, learning.feasible)
        for circumstance in _circumstances(learning):
            check_circumstance(OptimizerKind.TORCH_LBFGS, circumstance)
    return optimizer


def _scheduled(learning: Learning, experts: int, check: Callable[[BuildScheduler, Optimizer], object]) -> None:
    """Check the scheduler over the optimiser.

    Raises:
        ConfigError: Whatever the check raises.
    """
    try:
        optimizer = _built(learning, experts)
    except ConfigError:  # of the optimiser alone
        return
    if learning.build_scheduler and optimizer:
        check(learning.build_scheduler, optimizer)


KEYS: Mapping[Circumstance, str] = {
    Circumstance.CLIPPING: "trainer.gradient_clip_val",
    Circumstance.FP16: "trainer.precision",
    Circumstance.BF16: "trainer.precision",
    Circumstance.MINI_BATCHES: "data.batch_size",
    Circumstance.SEVERAL_PROCESSES: "trainer.devices",
    Circumstance.IDLE_SCHEDULER: "lr_scheduler",
}
"""Key that sets each circumstance."""


def _circumstances(learning: Learning) -> list[Circumstance]:
    precision = str(learning.trainer.get("precision", ""))
    idle = isinstance(learning.optimizer, Descent) and not learning.optimizer.uses_lr
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
