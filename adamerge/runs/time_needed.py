"""How many rows a run uses, and about how long it learns and measures, before anything is learned."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from adamerge.data.questions import count_questions
from adamerge.data.rows import Rows
from adamerge.experts.experts import Experts
from adamerge.learning.learn import divide
from adamerge.merging.device import device_of
from adamerge.merging.saved_bytes import saved_bytes
from adamerge.results.candidates import CANDIDATES
from adamerge.runs.choose_memory import as_answered
from adamerge.runs.config import MergeConfig
from adamerge.runs.load_rows import Data

_SIDE = 768
"""Rows and columns of the matrices by which speed is measured."""

_NUMBERS = 2**23
"""Numbers that are copied to measure how fast memory is read."""

_CALLS = 100
"""Calls by which their speed is measured."""

_BACKWARD = 3
"""Operations of a forward and a backward pass, by those of a forward pass."""


class Speed(NamedTuple):
    """What a device does in a second.

    Attributes:
        operations: Multiplications and additions in products of matrices.
        bytes: Bytes of memory that are read.
        calls: Calls of functions of torch on a few numbers.
    """

    operations: float
    bytes: float
    calls: float


class Work(NamedTuple):
    """A forward pass of one row.

    Attributes:
        operations: Multiplications and additions in products of matrices.
        calls: Functions of torch that are called, for one row or many.
    """

    operations: float
    calls: int

    def seconds(self, rows: int, size: int, speed: Speed) -> float:
        """Compute the seconds of some rows, `size` a pass."""
        return rows * self.operations / speed.operations + -(-rows // size) * self.calls / speed.calls


class Seconds(NamedTuple):
    """Seconds of a run.

    Attributes:
        step: One step.
        looks: All evaluations on held-out rows.
        measuring: The comparison on evaluation rows.
    """

    step: float
    looks: float
    measuring: float


def row_counts(config: MergeConfig, data: Data) -> list[str]:
    """Say how many rows of each task are learned from, held out and measured on."""
    parts = divide(data.calibration, config.data, config.seed_everything)
    return [
        f"rows of {task}: {len(parts.learn.get(task, ()))} to learn from, {len(parts.watch.get(task, ()))} held out, "
        f"{count_questions(data.evaluation[task]) if task in data.evaluation else 0} to measure on"
        for task in dict.fromkeys([*data.calibration, *data.evaluation])
    ]


def time_lines(config: MergeConfig, experts: Experts, names: Sequence[str], data: Data) -> list[str]:
    """Say about how long learning and measuring take on this machine now."""
    steps, device = config.trainer.max_steps, device_of(config.trainer.accelerator)
    if not steps and not data.evaluation:
        return []
    dtype: torch.dtype = getattr(torch, config.dtype)
    rows = {**data.evaluation, **data.calibration}
    work = _work(experts, {task: as_answered(own, config) for task, own in rows.items()}, dtype)
    if None in work.values():
        return ["time: unknown, because a model cannot be run without numbers"]
    known = {task: count for task, count in work.items() if count is not None}
    found = seconds(config, experts, names, data, known, speed_of(device, dtype))
    learning = f"learning {_words(steps * found.step + found.looks)} ({steps} steps of {found.step:.2g} s), "
    return [
        f"time: {learning if steps else ''}measuring {_words(found.measuring)}, as this machine is now; reading, "
        "transforms, centre, answers and export come on top"
    ]


def _work(experts: Experts, rows: Mapping[str, Rows], dtype: torch.dtype) -> dict[str, Work | None]:
    """Count every task's work, once for all models and rows of the same shapes."""
    known: dict[object, Work | None] = {}
    work: dict[str, Work | None] = {}
    for task, own in rows.items():
        module = experts.tasks[task].module
        sizes = [(name, tensor.shape) for name, tensor in chain(module.named_parameters(), _middle(own).items())]
        form = (type(module), *sizes)
        if form not in known:
            known[form] = work_of(experts, task, own, dtype)
        work[task] = known[form]
    return work


def _middle(rows: Rows) -> Mapping[str, Tensor]:
    """Return the inputs of the row of middle length."""
    order = list(rows.by_length(range(len(rows))))
    return rows.batch([order[len(order) // 2]]).inputs


def work_of(experts: Experts, task: str, rows: Rows, dtype: torch.dtype) -> Work | None:
    """Count what a forward pass of the row of middle length does; None if the model cannot be run without numbers."""
    with FlopCounterMode(display=False) as counter, _Calls() as calls:
        saved = saved_bytes(experts.tasks[task], (), _middle(rows), 1, dtype)
    return None if saved is None else Work(float(counter.get_total_flops()), calls.count)


class _Calls(TorchDispatchMode):
    """Counts the functions of torch that are called."""

    count = 0

    @override
    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: Sequence[object] = (), kwargs: object = None
    ) -> object:
        self.count += 1
        return func(*args, **cast(Mapping[str, object], kwargs or {}))


def seconds(
    config: MergeConfig,
    experts: Experts,
    names: Sequence[str],
    data: Data,
    work: Mapping[str, Work],
    speed: Speed,
) -> Seconds:
    """Compute seconds from operations, bytes and speed.

    Args:
        config: Steps, batches and evaluations.
        experts: Base and experts.
        names: Parameters to merge.
        data: Rows per task.
        work: What a forward pass of one row does, by task.
        speed: Of the device.
    """
    parts = divide(data.calibration, config.data, config.seed_everything)
    numbers = sum(experts.base.shape(name).numel() for name in names)
    merging = (len(config.columns) + 1) * numbers * getattr(torch, config.dtype).itemsize / speed.bytes
    batch = {task: min(config.data.batch_size or len(rows), len(rows)) for task, rows in parts.learn.items()}
    rows = {task: len(own) for task, own in data.evaluation.items()}
    looks = 1 + config.trainer.max_steps // config.watch.every if parts.watch else 0

    def passes(counts: Mapping[str, int]) -> float:
        return sum(work[task].seconds(count, config.data.micro_batch, speed) for task, count in counts.items())

    look = passes({task: len(own) for task, own in parts.watch.items()})
    return Seconds(_BACKWARD * passes(batch) + 2 * merging, looks * (look + merging), len(CANDIDATES) * passes(rows))


def speed_of(device: torch.device, dtype: torch.dtype) -> Speed:
    """Measure how fast a device multiplies matrices and reads memory, in some hundredths of a second."""
    one = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    few, many = one[:1], torch.ones(_NUMBERS, device=device, dtype=dtype)
    product = _fastest(lambda: (one @ one)[0, 0].item())
    calls = _fastest(lambda: [few.add(few) for _ in range(_CALLS)])
    return Speed(2 * _SIDE**3 / product, many.nbytes / _fastest(lambda: many.sum().item()), _CALLS / calls)


def _fastest(call: Callable[[], object], times: int = 3) -> float:
    found: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return max(min(found), 1e-9)


def _words(count: float) -> str:
    """Say a duration in a few words.

    Example:
        >>> _words(0.2), _words(42), _words(600), _words(9000)
        ('under 1 s', 'about 42 s', 'about 10 min', 'about 2.5 h')
    """
    if count < 1:
        return "under 1 s"
    if count < 120:
        return f"about {count:.0f} s"
    return f"about {count / 60:.0f} min" if count < 7200 else f"about {count / 3600:.1f} h"
