"""One base and its named experts, after the compatibility checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.matrix_layouts import Layouts, layouts_of
from adamerge.experts.model_kind import ModelKind, kind_of
from adamerge.experts.pooling import modes_of
from adamerge.experts.stateless import Stateless
from adamerge.storage.weights import Weights

KEEP = "keep"
"""Name of the base where it is a teacher: in tables, and of its rows; no task may have this name beside it."""


@dataclass(frozen=True, eq=False)
class Expert:
    """One task: a module without weights, and the weights of the expert that was fine-tuned on it.

    Attributes:
        name: The task.
        module: In eval mode; parameters are on the meta device.
        weights: The expert's weights under the module's names.
        head: Parameters that are not merged and stay this expert's own.
        prefix: Prefix of those names in `module`, if that wraps the expert's own module.
        checkpoint: The checkpoint of the weights, if they are from disk.
        head_buffers: Stored buffers of the head, for example running statistics, which stay its own too.
    """

    name: str
    module: nn.Module
    weights: Weights
    head: tuple[str, ...]
    prefix: str = ""
    checkpoint: Checkpoint | None = None
    head_buffers: tuple[str, ...] = ()

    @cached_property
    def kind(self) -> ModelKind:
        """What the module reads and predicts, decided once."""
        return kind_of(self.module)

    @cached_property
    def pooling(self) -> tuple[str, ...]:
        """How sentence-transformers pools its hidden states; empty if no file says it."""
        return modes_of(self.folders)

    @cached_property
    def forward(self) -> Stateless:
        """Runs the module on given parameters; a pass changes neither."""
        return Stateless(self.module)

    @property
    def draws_elsewhere(self) -> bool:
        """Whether a pass has drawn random numbers from Python or numpy; asks for no `forward` that ran nothing yet."""
        return "forward" in vars(self) and self.forward.elsewhere

    @property
    def whole_head(self) -> tuple[str, ...]:
        """Parameters and buffers of the head."""
        return (*self.head, *self.head_buffers)

    @property
    def source(self) -> str:
        """Name of the checkpoint or task in messages."""
        return self.checkpoint.source if self.checkpoint else self.name

    @property
    def folder(self) -> Path | None:
        """Folder of its files: the checkpoint's, or the one that a module in memory was loaded from, if it is there."""
        return self.checkpoint.folder if self.checkpoint else loaded_from(self.own_module)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders in which its tokenizer, processor and settings are looked for, in this order."""
        found = self.checkpoint.folders if self.checkpoint else (self.folder,)
        return tuple(folder for folder in found if folder is not None)

    @property
    def own_module(self) -> nn.Module:
        """The module without its wrapper."""
        return self.module.get_submodule(self.prefix.removesuffix("."))


@dataclass(frozen=True, eq=False)
class Experts:
    """A base and its experts; `from_checkpoints` and `from_modules` check that they are compatible.

    Attributes:
        base: The base's weights under the experts' names.
        tasks: The experts by task, in the order of the columns of the coefficients (G, K).
        shared: Parameters that are merged.
        kept: Parameters that a pattern keeps from the base.
        left_out: Tensors of the base that no expert has a place for.
        checkpoint: The base's checkpoint, if it is from disk.
        head_of_base: Whether the base has its own head of the expert's shape, by task.
        warnings: Suspicious findings that do not prevent merging.
        notes: What was read otherwise than names and configurations suggest.
        lacking: Parameters of its own class that the base's checkpoint lacks, under the names of that class.
        folder: Folder of the base's files: the checkpoint's, or the one that a module in memory was loaded from.
        teacher: The base as a teacher, without a column of coefficients; None unless it has rows (`teacher.py`).
    """

    base: Weights
    tasks: Mapping[str, Expert]
    shared: tuple[str, ...]
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    head_of_base: Mapping[str, bool] = field(default_factory=dict[str, bool])
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    folder: Path | None = None
    teacher: Expert | None = None

    @property
    def models(self) -> dict[str, Expert]:
        """Everything that may have rows: the experts, and the base where it is a teacher."""
        return {**self.tasks, **({} if self.teacher is None else {KEEP: self.teacher})}

    @property
    def backbone(self) -> list[str]:
        """Name what all tasks have in common: merged parameters, the base's own, and the base's buffers."""
        expert = next(iter(self.tasks.values()))
        stored = [name for name, _ in expert.own_module.named_buffers() if name in self.base]
        return [*self.shared, *self.kept, *(name for name in stored if name not in expert.head_buffers)]

    @cached_property
    def layouts(self) -> Layouts:
        """How shared parameters hold several matrices or transposed ones, by name."""
        found = layouts_of(next(iter(self.tasks.values())).own_module)
        return {name: layout for name, layout in found.items() if name in self.shared}

    @property
    def weights(self) -> dict[str, Weights]:
        """Each expert's weights by task."""
        return {name: expert.weights for name, expert in self.tasks.items()}

    def state_of(self, task: str) -> dict[str, Tensor]:
        """Return the parameters and buffers of a task's unmerged expert under its module's names."""
        expert = self.models[task]
        return {name: expert.weights[name] for name in expert.weights.headers}


def loaded_from(module: nn.Module) -> Path | None:
    """Return the folder that a module was loaded from by `from_pretrained`, if it is on this machine."""
    name = name_of(module)
    return Path(name) if name and Path(name).is_dir() else None


def name_of(module: nn.Module) -> str:
    """Return the folder or hub id that a module was loaded from by `from_pretrained`; empty if there is none.

    Example:
        >>> name_of(nn.Linear(1, 1))
        ''
    """
    return str(getattr(getattr(module, "config", None), "_name_or_path", None) or "")
