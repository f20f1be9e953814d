"""Run every task's model with given parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor
from transformers import GenerationConfig

from adamerge.batch import Outputs
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.low_rank import Adapted
from adamerge.experts.one_block import copies
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.forward_pass import Layers, call
from adamerge.merging.generating import Generating
from adamerge.merging.grouping import Grouping
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.pinned_task_vectors import Pinned
from adamerge.merging.resident_task_vectors import Resident, leaves_room, resident_bytes
from adamerge.merging.rounding import Rounding, RoundingMode, rounding_of
from adamerge.merging.rounds import TaskBlocks
from adamerge.merging.task_vectors import TaskVectors
from adamerge.merging.work import Execution
from adamerge.storage.digest import FileDigest
from adamerge.storage.weights import Weights, check_whole
from adamerge.types import Coefficients, Parameters


class MergedModel:
    """All tasks' models: experts, task vectors, grouping, and methods to run a task's module.

    Has no merged parameters: `execution_of` (execution.py) computes, uses and frees them.

    Args:
        experts: The base and its experts.
        vectors: Their task vectors.
        grouping: Which coefficient governs which parameter.
        rounding: How merged parameters are written, and models compared; by default to nearest, in dtypes that hold
            base and experts exactly.
        blocks: Merge and run one block at a time: paths of blocks in the experts' modules, or () to find them; None
            merges all parameters at once.
        executed: Makes the execution to learn with, instead of these two.
    """

    def __init__(
        self,
        experts: Experts,
        vectors: TaskVectors,
        grouping: Grouping,
        rounding: Rounding | None = None,
        blocks: Sequence[str] | None = None,
        executed: "Callable[[MergedModel], Execution] | None" = None,
    ) -> None:
        self.experts, self.vectors, self.grouping = experts, vectors, grouping
        self.rounding = rounding or rounding_of(experts)
        self.blocks, self.executed = None if blocks is None else tuple(blocks), executed
        for expert in experts.models.values():
            _buffers_to(expert.module, vectors.device)

    @cached_property
    def _files(self) -> tuple[FileDigest, ...]:
        """The files of which views are kept: heads, parameters without task vectors, experts that run."""
        every = (self.experts.base, *self.experts.weights.values(), self.vectors)
        return tuple({path: file for weights in every for path, file in weights.files.items()}.values())

    def check_files(self) -> None:
        """Check, before a pass, that no file was cut off of which a view may be read.

        Raises:
            IncompatibleExpertsError: One was; names it.
        """
        check_whole(self._files)

    @cached_property
    def _fixed(self) -> dict[str, Tensor]:
        """The base's parameters without task vectors, all at once."""
        return {name: self.own(self.experts.base[name]) for name in self.fixed}

    @cached_property
    def _heads(self) -> dict[str, dict[str, Tensor]]:
        return {
            task: {name: self.own(expert.weights[name]) for name in expert.whole_head}
            for task, expert in self.experts.models.items()
        }

    @property
    def fixed(self) -> list[str]:
        """Parameters that all tasks take from the base unchanged."""
        return [name for name in (*self.experts.shared, *self.experts.kept) if name not in self.vectors.shapes]

    @cached_property
    def task_blocks(self) -> dict[str, TaskBlocks]:
        """The blocks of every task's module.

        Raises:
            ConfigError: A module has none.
        """
        common, vectors = frozenset([*self.vectors.shapes, *self.fixed]), self.vectors
        return {
            task: TaskBlocks(expert, common | set(expert.whole_head), self.blocks or (), vectors.dtype, vectors.device)
            for task, expert in self.experts.models.items()
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """The experts' names, in the order of the coefficients' columns."""
        return tuple(self.experts.tasks)

    def regrouped(self, grouping: Grouping) -> "MergedModel":
        """Return the same models with another grouping."""
        return MergedModel(self.experts, self.vectors, grouping, self.rounding, self.blocks, self.executed)

    def executed_by(self, executed: "Callable[[MergedModel], Execution] | None") -> "MergedModel":
        """Return the same models with another execution; None merges in this process, all at once or by block."""
        return MergedModel(self.experts, self.vectors, self.grouping, self.rounding, self.blocks, executed)

    def written_in(self, dtype: torch.dtype | None, mode: RoundingMode | None = None) -> "MergedModel":
        """Return the same models with another dtype on disk or another rounding; None keeps what they have."""
        rounding = self.rounding if dtype is None else rounding_of(self.experts, dtype, seed=self.rounding.seed)
        return self.rounded_by(replace(rounding, mode=mode or self.rounding.mode))

    def rounded_by(self, rounding: Rounding) -> "MergedModel":
        """Return the same models with another rounding."""
        return MergedModel(self.experts, self.vectors, self.grouping, rounding, self.blocks)

    def forward(
        self, task: str, merged: Parameters, inputs: Mapping[str, Tensor], layers: Layers = (), own_head: bool = True
    ) -> Outputs:
        """Run one task's model on given parameters.

        Args:
            task: Whose model and head.
            merged: All parameters that have task vectors.
            inputs: Keyword arguments of the module.
            layers: Hidden states to return: indices, or "middle".
            own_head: Whether to use the expert's head, or the base's.
        """
        expert, parameters = self.experts.models[task], self._state(task, merged, own_head)
        return call(expert, lambda given: expert.forward(parameters, (), given), inputs, layers)

    def generator(
        self, task: str, merged: Parameters, own_head: bool = True
    ) -> Callable[[Mapping[str, Tensor], GenerationConfig], Tensor]:
        """Return the `generate` of one task's model on given parameters; see `Merged.generator`.

        Args:
            task: Whose model and head.
            merged: All parameters that have task vectors.
            own_head: Whether to use the expert's head, or the base's.
        """
        expert, parameters = self.experts.models[task], self._state(task, merged, own_head)
        return torch.no_grad()(partial(Generating(expert.module), parameters))

    def _state(self, task: str, merged: Parameters, own_head: bool) -> dict[str, Tensor]:
        self.check_files()
        expert, base = self.experts.models[task], self.experts.base
        head = self._heads[task] if own_head else {name: self.own(base[name]) for name in expert.whole_head}
        return {expert.prefix + name: value for name, value in {**self._fixed, **merged, **head}.items()}

    def expert(self, task: str) -> "UnmergedExpert":
        """Place a task's unmerged expert on the device, for as long as the result lives."""
        found, device = self.experts.state_of(task), self.vectors.device
        dtypes = {name: self._dtype_of(tensor) for name, tensor in found.items()}
        other = {
            name: tensor for name, tensor in found.items() if (tensor.device, tensor.dtype) != (device, dtypes[name])
        }
        state = {**found, **copies(other, dtypes, device)}
        return UnmergedExpert(self.experts.models[task], state, self.check_files)

    def own(self, tensor: Tensor) -> Tensor:
        """Convert a checkpoint's tensor to the device and dtype of the computation; integers keep their dtype."""
        return tensor.to(self.vectors.device, self._dtype_of(tensor))

    def _dtype_of(self, tensor: Tensor) -> torch.dtype:
        return self.vectors.dtype if tensor.is_floating_point() else tensor.dtype


class UnmergedExpert:
    """A task's expert with its own weights and buffers, on the device of the computation.

    Args:
        expert: Module, and prefix of its names.
        state: Its parameters and buffers.
        check: Called before every pass; raises what makes it impossible.
    """

    def __init__(self, expert: Expert, state: Parameters, check: Callable[[], None] = lambda: None) -> None:
        self._expert, self._check = expert, check
        self._state = {expert.prefix + name: value for name, value in state.items()}

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor], layers: Layers = ()) -> Outputs:
        """Run the expert."""
        self._check()
        return call(self._expert, lambda given: self._expert.forward(self._state, (), given), inputs, layers)

    @cached_property
    def _generating(self) -> Generating:
        return Generating(self._expert.module)  # looks through the whole module, and few experts generate

    @torch.no_grad()
    def generate(self, inputs: Mapping[str, Tensor], how: GenerationConfig) -> Tensor:
        """Generate by the class's own `generate`: token ids (B, S)."""
        self._check()
        return self._generating(self._state, inputs, how)


def uniform(model: MergedModel, value: float) -> Coefficients:
    """Build coefficients (G, K) that all have one value."""
    return torch.full((len(model.grouping), len(model.vectors.experts)), value)


def task_vectors(
    experts: Experts,
    names: Sequence[str],
    *,
    centre: Weights | None = None,
    beside: Mapping[str, Weights] | None = None,
    resident: bool | None = None,
    room: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TaskVectors:
    """Compute the task vectors τₖ = expertₖ − centre of the parameters `names`, without transform.

    Args:
        experts: The base and its experts.
        names: Parameters that get coefficients.
        centre: What the weighted task vectors are added to; the base by default.
        beside: Other models that get a coefficient, after the experts.
        resident: Whether to hold them on the device (fast) or map them from their files (memory does not grow with K).
            None chooses: resident where they take less than half of `room`.
        room: Free bytes on the device; needed where `resident` is None.
        dtype: Of the computation.
        device: Of the computation.
    """
    centre, weights = centre or experts.base, {**experts.weights, **(beside or {})}
    if any(isinstance(own, Adapted) for own in weights.values()):
        return Factored(weights, names, centre, experts.base, dtype, device)
    mapped = Mapped(weights, names, centre, centre, dtype, device)
    return hold(mapped, resident, room)


def hold(mapped: TaskVectors, resident: bool | None, room: int | None) -> TaskVectors:
    """Make mapped task vectors resident if asked for, or if `resident` is None and they take less than half of `room`.

    Those that stay in their files are read ahead of use where the device is a GPU. Factors of adapters stay factors.
    """
    if isinstance(mapped, Factored):
        return mapped
    if resident is None:
        needed = resident_bytes(mapped.shapes, len(mapped.experts), mapped.dtype)
        resident = room is not None and leaves_room(needed, room)
    if isinstance(mapped, Mapped) and mapped.device.type == "cuda":
        mapped = Pinned(mapped)
    return Resident(mapped) if resident else mapped


def _buffers_to(module: torch.nn.Module, device: torch.device) -> None:
    """Move only the buffers: parameters are on the meta device and stay there."""
    for owner in module.modules():
        for name, buffer in list(owner.named_buffers(recurse=False, remove_duplicate=False)):
            if not buffer.is_meta:
                setattr(owner, name, buffer.to(device))
