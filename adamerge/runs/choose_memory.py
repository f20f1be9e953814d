"""The execution of a configuration, by the memory that each one takes and that there is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from adamerge.data.questions import Questions
from adamerge.data.rows import Rows
from adamerge.data.settings import PseudoAnswers
from adamerge.data.text_rows import Prompts
from adamerge.experts.experts import Expert, Experts
from adamerge.learning.learn import divide
from adamerge.learning.trainer import process_count
from adamerge.merging.blocks import find_blocks
from adamerge.merging.choose_execution import Around, Choice, Memory, Passes, choose
from adamerge.merging.device import device_of, free_bytes
from adamerge.merging.divided_need import divided_need
from adamerge.merging.saved_bytes import Saved, saved_bytes
from adamerge.runs.all_transforms import transforms_bytes
from adamerge.runs.config import MergeConfig
from adamerge.runs.precision import in_bf16
from adamerge.storage.memory import anonymous_memory, give_back
from adamerge.types import ConfigError

_KNOWN: WeakKeyDictionary[nn.Module, dict[object, Saved | None]] = WeakKeyDictionary()
"""Bytes of activations by module and form of the batch: the execution is chosen before rows are divided, and after."""


class _Found(NamedTuple):
    """Bytes of the process, and free ones."""

    process: int
    free: int


_AT_FIRST: WeakKeyDictionary[Experts, _Found] = WeakKeyDictionary()
"""What was found when an execution was first chosen for these experts, so that all choices are the same."""


def execution_for(
    config: MergeConfig, experts: Experts, names: Sequence[str], rows: Mapping[str, Rows], device: torch.device
) -> Choice:
    """Choose the execution.

    Args:
        config: What the user asks for, and the size of batches.
        experts: Base and experts.
        names: Parameters to merge.
        rows: Calibration rows per task.
        device: Device of the computation.

    Raises:
        ConfigError: The limit is too low, there is no such block, or what is configured cannot be streamed.
    """
    memory, dtype = config.memory_settings, config.work_dtype
    count, room = len(config.columns), _at_first(experts, device).free
    if device.type == "cpu":
        room //= config.trainer.devices  # each process takes its part
    saved = _saved(config, experts, rows, memory, dtype) if config.trainer.max_steps else Saved(0, 0)
    around = _around(config, experts, names, device)
    passes = _passes(config, rows)
    choice = choose(memory, experts, names, count, dtype, room, saved, around, passes)
    fisher = [key for key, transform in config.transforms.items() if transform.fisher]
    if choice.blocks is not None and fisher:
        if memory.mode == "streamed":
            raise ConfigError(
                f"memory: expected mapped or resident, found streamed: {fisher[0]} needs Fisher information, which is "
                "computed with a whole expert in memory. Set memory: mapped."
            )
        choice = choose(replace(memory, mode="mapped"), experts, names, count, dtype, room, saved, around, passes)
    if config.trainer.strategy == "fsdp2":
        line = _divided(config, experts, names, dtype, saved, around)
        choice = choice._replace(lines=(*choice.lines, line), problem="")  # only the first one needs more
    return choice


def _passes(config: MergeConfig, rows: Mapping[str, Rows]) -> Passes:
    """Say what a run does with merged models before it writes them, and after."""
    if config.trainer.max_steps:
        return "backward"
    return "forward" if rows or any(model.evaluation for model in config.models) else "none"


def execution_ahead(
    config: MergeConfig, experts: Experts, names: Sequence[str], rows: Mapping[str, Rows], device: torch.device
) -> Choice:
    """Choose the execution as `execution_for` does, before rows are divided and prompts are answered.

    Args:
        config: As for `execution_for`.
        experts: As for `execution_for`.
        names: As for `execution_for`.
        rows: All calibration rows per task.
        device: As for `execution_for`.

    Raises:
        ConfigError: As for `execution_for`.
    """
    answered = {task: as_answered(own, config) for task, own in rows.items()}
    parts = divide(answered, config.data, config.seed_everything)
    return execution_for(config, experts, names, parts.learn, device)


def fitting(choice: Choice) -> Choice:
    """Return an execution, if it fits into what is free.

    Raises:
        ConfigError: It takes more memory than is free, and the user has set no limit.
    """
    if choice.problem:
        raise ConfigError(choice.problem)
    return choice


def as_answered(rows: Rows, config: MergeConfig) -> Rows:
    """Return prompts with pseudo-answers as long as they may be, to know their size before there are any."""
    if not isinstance(rows, Prompts):
        return rows
    settings = rows.source if isinstance(rows, Questions) else config.data.pseudo_answers or PseudoAnswers()
    return rows.answered([[0] * settings.max_new_tokens] * len(rows))


def _divided(
    config: MergeConfig, experts: Experts, names: Sequence[str], dtype: torch.dtype, saved: Saved | None, around: Around
) -> str:
    """Say what each process takes to learn; what is above it is for what the first process prepares and measures."""
    processes = process_count(asdict(config.trainer))
    need = divided_need(experts, names, config.memory_settings, processes, dtype, gathered_in(config) or dtype, saved)
    need = replace(need, around=around._replace(before=0, untried=False))  # the first process alone prepares
    return f"memory: to learn, each of {processes} processes takes {need}"


def _around(config: MergeConfig, experts: Experts, names: Sequence[str], device: torch.device) -> Around:
    """Say what the process held at first, and estimate what its transforms will take."""
    heap = device.type == "cpu"
    works = transforms_bytes(config, experts, names)
    most = max((size for size in works if size is not None), default=0)
    return Around(_at_first(experts, device).process if heap else 0, most, heap, untried=None in works)


def _at_first(experts: Experts, device: torch.device) -> _Found:
    """Measure what the process holds and what is free, once."""
    if experts not in _AT_FIRST:
        give_back(0)
        _AT_FIRST[experts] = _Found(anonymous_memory(), free_bytes(device))
    return _AT_FIRST[experts]


def gathered_in(config: MergeConfig) -> torch.dtype | None:
    """Choose the dtype in which processes gather parameters; None is that of the task vectors."""
    return torch.bfloat16 if in_bf16(config) else None


def whole_experts(config: MergeConfig, experts: Experts, names: Sequence[str], rows: Mapping[str, Rows]) -> list[str]:
    """Say what is not streamed: experts that generate pseudo-answers.

    Args:
        config: As for `execution_for`.
        experts: Base and experts.
        names: Parameters to merge.
        rows: Calibration rows per task.
    """
    if not any(isinstance(own, Prompts) for own in rows.values()):
        return []
    if execution_ahead(config, experts, names, rows, device_of(config.trainer.accelerator)).blocks is None:
        return []
    dtype = config.work_dtype
    most = max(sum(header.shape.numel() for header in one.headers.values()) for one in experts.weights.values())
    size = f"{most * dtype.itemsize / 1e6:.0f} MB"
    return [f"memory: while experts generate pseudo-answers, each is in memory as a whole, {size}"]


def _saved(
    config: MergeConfig, experts: Experts, rows: Mapping[str, Rows], memory: Memory, dtype: torch.dtype
) -> Saved | None:
    """Count the bytes of activations of a step, with the longest rows of the task that takes most in every batch."""
    usual = {task: own for task, own in rows.items() if len(own)}
    if not usual:
        return None
    passes = sum(-(-_step_rows(config, own) // config.data.micro_batch) for own in usual.values())
    largest: dict[type[nn.Module], tuple[Expert, Mapping[str, Tensor]]] = {}
    for task, own in usual.items():
        expert = experts.models[task]
        longest = list(own.by_length(range(len(own))))[: min(config.data.micro_batch, _step_rows(config, own))]
        inputs, kind = own.batch(longest).inputs, type(expert.module)
        if kind not in largest or _numbers(inputs) > _numbers(largest[kind][1]):
            largest[kind] = expert, inputs
    found = [_known(expert, inputs, config, passes, memory, dtype) for expert, inputs in largest.values()]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    return Saved(max(one.whole for one in known), max(one.streamed for one in known))


def _known(
    expert: Expert, inputs: Mapping[str, Tensor], config: MergeConfig, passes: int, memory: Memory, dtype: torch.dtype
) -> Saved | None:
    """Count once for batches of one form."""
    blocks = find_blocks(expert.module, [expert.prefix + path for path in memory.blocks])
    by_position = config.objective.by_position is not None
    known = _KNOWN.setdefault(expert.module, {})
    form = (*blocks, passes, dtype, by_position, *((name, one.shape, one.dtype) for name, one in inputs.items()))
    if form not in known:
        known[form] = saved_bytes(expert, blocks, inputs, passes, dtype, by_position=by_position)
    return known[form]


def _step_rows(config: MergeConfig, rows: Rows) -> int:
    return min(config.data.batch_size or len(rows), len(rows))


def _numbers(inputs: Mapping[str, Tensor]) -> int:
    return sum(one.numel() for one in inputs.values())
