"""Which execution fits into memory: how much each of them needs, against what there is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import nn

from adamerge.experts.experts import Expert, Experts
from adamerge.experts.tied import tied_names
from adamerge.merging.blocks import find_blocks, frames
from adamerge.merging.mapped_task_vectors import SCRATCH
from adamerge.merging.resident_task_vectors import leaves_room, resident_bytes
from adamerge.merging.saved_bytes import Saved
from adamerge.storage.memory import SLACK
from adamerge.storage.sizes import bytes_in
from adamerge.types import ConfigError

Mode: TypeAlias = Literal["auto", "resident", "mapped", "streamed"]
"""Where task vectors are, and how much of the merged model exists at once."""

Passes: TypeAlias = Literal["none", "forward", "backward"]
"""What is done with merged models: nothing but writing them, passes without gradient, or passes with one."""

HOLES = 0.2
"""Share of gradients and activations that the C library keeps beside them, in holes among what lives on (measured)."""


@dataclass(frozen=True)
class Memory:
    """How much memory learning may take.

    Attributes:
        mode: resident, mapped, streamed, or auto.
        limit: Most bytes of the whole process, such as 8GB; null takes what is free.
        blocks: Paths of the model's blocks, or of lists of blocks, for streamed; [] finds them by type.
    """

    mode: Mode = "auto"
    limit: int | str | None = None
    blocks: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Check the limit."""
        if self.limit is not None:
            bytes_in(self.limit, "memory.limit")

    @property
    def bytes(self) -> int:
        """The limit in bytes; 0 without a limit.

        Example:
            >>> Memory(limit="1.5 GB").bytes, Memory().bytes
            (1500000000, 0)
        """
        return 0 if self.limit is None else bytes_in(self.limit, "memory.limit")


class Around(NamedTuple):
    """Bytes that are taken around a step.

    Attributes:
        process: What the process holds already: Python, libraries, rows.
        before: What is taken before the first step, and given back: a transform's work on one tensor.
        heap: Whether tensors are in the C library's heap, as on the CPU, which keeps some of what is freed.
        untried: Whether there are transforms whose work is not known, because they need rows.
    """

    process: int = 0
    before: int = 0
    heap: bool = False
    untried: bool = False

    def __str__(self) -> str:
        """Say it in a few words, after others."""
        held = f", libraries and rows {_mb(self.process)}" if self.process else ""
        works = [_mb(self.before)] * bool(self.before) + ["unknown"] * self.untried
        return held + (f"; before that, transforms {' and '.join(works)}" if works else "")


ALONE = Around()
"""Nothing around a step."""


@dataclass(frozen=True)
class Need:
    """Bytes that one execution takes, without the experts' outputs.

    Attributes:
        mode: The execution.
        task_vectors: Task vectors in memory.
        parameters: Merged parameters, what is not merged, and gradients, if there are any, as much as exists at once.
        activations: Activations, at the ends of blocks and inside one; None if unknown.
        around: What there is around a step.
        kept: Memory that a step has freed, and that the process keeps.
        passes: What is done with merged models.
    """

    mode: Literal["resident", "mapped", "streamed", "fsdp2"]
    task_vectors: int
    parameters: int
    activations: int | None = None
    around: Around = ALONE
    kept: int = 0
    passes: Passes = "backward"

    @property
    def total(self) -> int:
        """All bytes that are known: of a step, or of what comes before it, if that takes more."""
        step = self.task_vectors + self.parameters + (self.activations or 0) + self.kept
        return self.around.process + max(step, self.around.before)

    def __str__(self) -> str:
        """Say it in a few words."""
        gradients = " and gradients" if self.passes == "backward" else ""
        parts = f"task vectors {_mb(self.task_vectors)}, parameters{gradients} {_mb(self.parameters)}"
        known = "activations unknown" if self.activations is None else f"activations {_mb(self.activations)}"
        kept = f", freed and kept {_mb(self.kept)}" if self.kept else ""
        return f"{self.mode} {_mb(self.total)} ({parts}, {known}{kept}{self.around})"


class Choice(NamedTuple):
    """The execution that was chosen.

    Attributes:
        need: What it takes.
        blocks: Paths of blocks for the merged model; None merges all at once.
        lines: What to tell the user.
        others: What the other executions take, one line each.
        problem: Why it does not fit into what is free; empty if it does, or if the user has set a limit.
    """

    need: Need
    blocks: tuple[str, ...] | None
    lines: tuple[str, ...]
    others: tuple[str, ...]
    problem: str = ""


def choose(
    memory: Memory,
    experts: Experts,
    names: Sequence[str],
    count: int,
    dtype: torch.dtype,
    free: int,
    saved: Saved | None,
    around: Around = ALONE,
    passes: Passes = "backward",
) -> Choice:
    """Choose an execution.

    auto takes resident where the task vectors take less than half of the memory, else mapped, else streamed: the first
    one that fits.

    Args:
        memory: What the user asks for.
        experts: Base and experts.
        names: Parameters with task vectors.
        count: K, the number of task vectors.
        dtype: Of the computation.
        free: Free bytes on the device.
        saved: Bytes of activations; None if unknown.
        around: What is taken around a step.
        passes: What is done with merged models.

    Raises:
        ConfigError: The limit is below what the execution takes, or `blocks` names no module.
    """
    needs = {need.mode: need for need in _needs(memory, experts, names, count, dtype, saved, around, passes)}
    room = memory.bytes or free + around.process
    mode, why = memory.mode, ""
    if mode == "streamed" and "streamed" not in needs:
        lacking = next(expert for expert in experts.models.values() if not _blocks(expert, memory))
        why = f"memory: {type(lacking.module).__name__} has no list of like modules to stream, so mapped is taken"
        mode = "mapped"
    if mode == "auto":
        mode = _fitting(needs, room)
    if memory.limit is not None and needs[mode].total > room:
        smallest = min(needs.values(), key=lambda need: need.total)
        raise ConfigError(
            f"memory.limit: expected at least {_mb(needs[mode].total)} for {needs[mode]}, found {memory.limit}. The "
            f"smallest execution is {smallest}. Raise the limit, or lower data.batch_size, data.micro_batch or "
            "data.max_length."
        )
    limit = f"the limit is {_mb(room)}" if memory.limit is not None else f"{_mb(free)} are free"
    lines = [f"memory: {needs[mode]}; {limit}", *([why] if why else [])]
    others = tuple(f"memory: otherwise {need}" for need in needs.values() if need.mode != mode)
    problem = "" if memory.limit is not None or needs[mode].total <= room else _problem(needs, mode, free, around)
    return Choice(needs[mode], tuple(memory.blocks) if mode == "streamed" else None, tuple(lines), others, problem)


def _problem(needs: Mapping[str, Need], mode: str, free: int, around: Around) -> str:
    """Say what is lacking, and what can be done."""
    smallest = min(needs.values(), key=lambda need: need.total)
    smaller = f" ({_mb(smallest.total)} with memory: {smallest.mode})" if smallest.mode != mode else ""
    return (
        f"memory: expected at least {_mb(needs[mode].total)}{smaller}, found {_mb(around.process)} of this process and "
        f"{_mb(free)} that the device and the control groups of this process (a container's limit) leave. Free memory, "
        "raise the container's limit, lower data.batch_size, data.micro_batch or data.max_length, or set memory.limit "
        "to what the process may take, if more will be free."
    )


def _fitting(needs: dict[str, Need], room: int) -> Literal["resident", "mapped", "streamed"]:
    """Choose the first execution that fits; where none does, the smallest."""
    if leaves_room(needs["resident"].task_vectors, room) and needs["resident"].total <= room:
        return "resident"
    if needs["mapped"].total <= room or "streamed" not in needs:
        return "mapped"
    return "streamed" if needs["streamed"].total < needs["mapped"].total else "mapped"


def _needs(
    memory: Memory,
    experts: Experts,
    names: Sequence[str],
    count: int,
    dtype: torch.dtype,
    saved: Saved | None,
    around: Around,
    passes: Passes,
) -> Iterator[Need]:
    shapes = {name: experts.base.shape(name) for name in names}
    scratch = SCRATCH * dtype.itemsize
    merged = resident_bytes(shapes, 1, dtype)
    kept = sum(_converted(experts, name, dtype) for name in (*experts.shared, *experts.kept) if name not in shapes)
    heads = sum(
        expert.weights.shape(name).numel() * dtype.itemsize
        for expert in experts.models.values()
        for name in expert.whole_head
    )
    largest = max((shape.numel() for shape in shapes.values()), default=0) * dtype.itemsize
    gradients = merged + _most_of_one(experts, shapes, dtype) if passes == "backward" else 0
    whole = largest if passes == "none" else merged + gradients + kept + heads
    activations = None if saved is None else saved.whole
    holes = round(HOLES * ((merged if gradients else 0) + (activations or 0))) if around.heap else 0
    yield Need("resident", resident_bytes(shapes, count, dtype), whole, activations, around, holes, passes)
    yield Need("mapped", scratch, whole, activations, around, holes, passes)
    if all(_blocks(expert, memory) for expert in experts.models.values()):
        most = max(_largest(expert, memory, dtype, passes) for expert in experts.models.values())
        streamed, slack = None if saved is None else saved.streamed, SLACK // 2 if around.heap else 0  # on average
        yield Need("streamed", scratch, largest if passes == "none" else most, streamed, around, slack, passes)


def _most_of_one(experts: Experts, shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> int:
    """Count the bytes of a pass's own gradient of one parameter, before it is added to that of the passes before.

    Where a pass uses the parameter twice, there are both gradients and their sum.
    """
    tied = {
        name.removeprefix(expert.prefix)
        for expert in experts.models.values()
        for names in tied_names(expert.module)
        if len(names) > 1
        for name in names
    }
    return (
        max((shape.numel() * (3 if name in tied else 1) for name, shape in shapes.items()), default=0) * dtype.itemsize
    )


def _converted(experts: Experts, name: str, dtype: torch.dtype) -> int:
    """Count the bytes of a parameter that is not merged: none where the file is mapped, in the dtype of the work."""
    header = experts.base.headers[name]
    return 0 if header.dtype == dtype else header.shape.numel() * dtype.itemsize


def _blocks(expert: Expert, memory: Memory) -> tuple[str, ...]:
    return find_blocks(expert.module, [expert.prefix + path for path in memory.blocks])


def _largest(expert: Expert, memory: Memory, dtype: torch.dtype, passes: Passes) -> int:
    """Count the bytes of the largest part that runs by itself, and of what belongs to none.

    There are its parameters and, in passes back, their gradients and one of a pass before it is added to the others.
    """
    around, backward = frames(_blocks(expert, memory)), passes == "backward"
    sizes: list[int] = []
    outside = 0
    for path in around:
        module = expert.module.get_submodule(path)
        outside += sum(own.numel() for own in module.parameters(recurse=False))
        children = [child for name, child in module.named_children() if f"{path}.{name}".lstrip(".") not in around]
        sizes += [_size(child, backward) for child in children]
    return (max(sizes, default=0) + (2 if backward else 1) * outside) * dtype.itemsize


def _size(module: nn.Module, backward: bool) -> int:
    sizes = [own.numel() for own in module.parameters()]
    return 2 * sum(sizes) + max(sizes, default=0) if backward else sum(sizes)


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
