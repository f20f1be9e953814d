"""How many rows a run uses, and about how long it learns and measures, before anything is learned."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
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

_LAYERS = 25
"""Small layers of a module by which the speed of calls is measured, since a module's Python is most of a call."""

_TIMES = 5
"""How often each speed is measured; the machine may do other things meanwhile."""

_PER_TENSOR = 4
"""Functions that merge a parameter."""

_AROUND = 400
"""Functions by which the loop of learning and the optimiser are as slow as around a step."""

_UNSEEN = 2.0
"""Factor of the largest time: what no count sees, such as memory that is allocated, caches, and attention."""

_BACKWARD = 3
"""Operations of a forward and a backward pass, by those of a forward pass."""


class Speed(NamedTuple):
    """What a device does in a second.

    Attributes:
        operations: Multiplications and additions in products of matrices.
        bytes: Bytes of memory that are read.
        calls: Calls of functions of torch on a few numbers, within modules.
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
    dtype = config.work_dtype
    rows = {**data.evaluation, **data.calibration}
    work = _work(experts, {task: as_answered(own, config) for task, own in rows.items()}, dtype)
    if None in work.values():
        return ["time: unknown, because a model cannot be run without numbers"]
    known = {task: count for task, count in work.items() if count is not None}
    least, most = (seconds(config, experts, names, data, known, speed) for speed in speeds_of(device, dtype))
    most = Seconds(*(_UNSEEN * count for count in most))
    ranges = [_words(steps * least.step + least.looks, steps * most.step + most.looks)]
    learning = f"learning {ranges[0]} ({steps} steps of {least.step:.2g} to {most.step:.2g} s), "
    return [
        f"time: {learning if steps else ''}measuring {_words(least.measuring, most.measuring)}, as this machine is "
        "now; reading, transforms, centre, answers and export come on top"
    ]


def _work(experts: Experts, rows: Mapping[str, Rows], dtype: torch.dtype) -> dict[str, Work | None]:
    """Count every task's work, once for all models and rows of the same shapes."""
    known: dict[object, Work | None] = {}
    work: dict[str, Work | None] = {}
    for task, own in rows.items():
        module = experts.models[task].module
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
        saved = saved_bytes(experts.models[task], (), _middle(rows), 1, dtype)
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
    merging = (len(config.columns) + 1) * numbers * config.work_dtype.itemsize / speed.bytes
    merging += _PER_TENSOR * len(names) / speed.calls
    batch = {task: min(config.data.batch_size or len(rows), len(rows)) for task, rows in parts.learn.items()}
    rows = {task: len(own) for task, own in data.evaluation.items()}
    looks = 1 + config.trainer.max_steps // config.watch.every if parts.watch else 0

    def passes(counts: Mapping[str, int]) -> float:
        return sum(work[task].seconds(count, config.data.micro_batch, speed) for task, count in counts.items())

    look = passes({task: len(own) for task, own in parts.watch.items()})
    step = _BACKWARD * passes(batch) + 2 * merging + _AROUND / speed.calls
    return Seconds(step, looks * (look + merging), len(CANDIDATES) * passes(rows))


def speeds_of(device: torch.device, dtype: torch.dtype) -> tuple[Speed, Speed]:
    """Measure how fast a device multiplies, reads memory and is called, best and worst, in hundredths of a second."""
    one = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    few, many = one[:1], torch.ones(_NUMBERS, device=device, dtype=dtype)
    layers = nn.Sequential(*(nn.Linear(1, 1, device=device, dtype=dtype) for _ in range(_LAYERS)))
    with _Calls() as calls:
        _ = layers(few[:, :1])
    product = _measured(lambda: (one @ one)[0, 0].item())
    called, read = _measured(lambda: layers(few[:, :1])), _measured(lambda: many.sum().item())
    best, worst = (
        Speed(2 * _SIDE**3 / product[at], many.nbytes / read[at], calls.count / called[at]) for at in (0, -1)
    )
    return best, worst


def _measured(call: Callable[[], object]) -> list[float]:
    """Measure the seconds of a call some times, after one more; the shortest come first."""
    found: list[float] = []
    for _ in range(_TIMES + 1):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return sorted(max(one, 1e-9) for one in found[1:])


def _words(least: float, most: float) -> str:
    """Say a duration between two numbers of seconds in a few words.

    Example:
        >>> _words(0.2, 0.8), _words(0.2, 4), _words(42, 44.2), _words(70, 600), _words(5000, 9000)
        ('under 1 s', '0.2 to 4 s', '42 to 44 s', '1.2 to 10 min', '1.4 to 2.5 h')
    """
    if most < 1:
        return "under 1 s"
    size, unit = next((size, unit) for size, unit, end in _UNITS if most < end)
    return f"{_rounded(least / size)} to {_rounded(most / size)} {unit}"


def _rounded(count: float) -> str:
    return f"{count:.0f}" if count >= 10 else f"{count:.1g}" if count < 1 else f"{count:.2g}"


_UNITS = ((1, "s", 120), (60, "min", 7200), (3600, "h", math.inf))
"""Seconds of each unit, its name, and the seconds from which the next one is used."""
