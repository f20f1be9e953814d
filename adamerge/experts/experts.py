"""One base and its named experts, as they are once they have been proven compatible."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.model_kind import ModelKind, kind_of
from adamerge.storage.weights import Weights


@dataclass(frozen=True, eq=False)
class Expert:
    """One task: a module without weights, and the numbers of the expert that was fine-tuned on it.

    Attributes:
        name: The task.
        module: In eval mode; parameters are on the meta device.
        weights: The expert's numbers under the module's names.
        head: Parameters that stay this expert's own.
        prefix: What stands before those names in `module`, where that is a wrapper round the expert's own module.
        checkpoint: Where they come from, if from disk.
        disk: Name on disk of each parameter, if from disk.
        head_buffers: Stored buffers of the head, running statistics for example, which stay its own too.
    """

    name: str
    module: nn.Module
    weights: Weights
    head: tuple[str, ...]
    prefix: str = ""
    checkpoint: Checkpoint | None = None
    disk: Mapping[str, str] = field(default_factory=dict[str, str])
    head_buffers: tuple[str, ...] = ()

    @cached_property
    def kind(self) -> ModelKind:
        """What the module reads and predicts, decided once."""
        return kind_of(self.module)

    @property
    def whole_head(self) -> tuple[str, ...]:
        """Parameters and buffers of the head."""
        return (*self.head, *self.head_buffers)

    @property
    def source(self) -> str:
        """Where the numbers come from, in words."""
        return self.checkpoint.source if self.checkpoint else self.name

    @property
    def own_module(self) -> nn.Module:
        """The module without a wrapper round it."""
        return self.module.get_submodule(self.prefix.removesuffix("."))


@dataclass(frozen=True, eq=False)
class Experts:
    """A base and its experts; `from_checkpoints` and `from_modules` prove that they belong together.

    Attributes:
        base: The base's numbers under the experts' names.
        tasks: The experts by task, in the order of the columns of the coefficients.
        shared: Parameters that are merged.
        kept: Parameters that stay the base's because a pattern says so.
        left_out: Tensors of the base that no expert has a place for.
        checkpoint: Where the base comes from, if from disk.
        head_of_base: Whether the base has a head of its own that fits, by task.
        warnings: What looks wrong but can be merged.
    """

    base: Weights
    tasks: Mapping[str, Expert]
    shared: tuple[str, ...]
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    head_of_base: Mapping[str, bool] = field(default_factory=dict[str, bool])
    warnings: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, Weights]:
        """Each expert's numbers by task."""
        return {name: expert.weights for name, expert in self.tasks.items()}

    def state_of(self, task: str) -> dict[str, Tensor]:
        """The unmerged expert of a task: its parameters and buffers under its module's names."""
        expert = self.tasks[task]
        return {name: expert.weights[name] for name in expert.weights.headers}
