"""What Python users hold instead of paths: modules, state dicts, texts, datasets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import transformers
from torch import Tensor, nn

from adamerge.data.rows import DataSource, Rows
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.experts import Experts, from_modules
from adamerge.results.read_back import without_bars
from adamerge.runs.build_model import open_experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.load_rows import Data, load_data
from adamerge.types import ConfigError

Model: TypeAlias = str | Path | nn.Module | Mapping[str, Tensor]
"""A checkpoint (directory or hub id), a module, or a state dict."""

RowsLike: TypeAlias = object
"""A path, a mapping of path and column names, texts, a `datasets.Dataset`, a PyTorch dataset, or `Rows`."""

IN_MEMORY = "(in memory)"
"""What a configuration says where there is no path."""

_ROWS = ("calibration", "evaluation")


@dataclass(frozen=True, eq=False)
class InMemory:
    """Models and rows that have no path.

    Attributes:
        base: The base, or None.
        experts: By task.
        calibration: Unlabeled rows by task.
        evaluation: Labeled rows by task.
    """

    base: nn.Module | Mapping[str, Tensor] | None = None
    experts: dict[str, nn.Module | Mapping[str, Tensor]] = field(default_factory=dict)
    calibration: dict[str, RowsLike] = field(default_factory=dict)
    evaluation: dict[str, RowsLike] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.base is not None or any((self.experts, self.calibration, self.evaluation))

    @property
    def words(self) -> list[str]:
        """What it is, for messages."""
        base = ["base_model"] if self.base is not None else []
        kinds = {"model": self.experts, "calibration": self.calibration, "evaluation": self.evaluation}
        return base + [f"{kind} of {task}" for kind, own in kinds.items() for task in own]


def take_base(written: object, memory: InMemory) -> tuple[object, InMemory]:
    """The base as a configuration names it, and beside it the base itself if it has no path."""
    if isinstance(written, nn.Module | Mapping):
        return IN_MEMORY, replace(memory, base=written)
    return _path(written), memory


def take_out(expert: Mapping[str, object], task: str, memory: InMemory) -> dict[str, object]:
    """An expert's keys as a configuration holds them; what has no path goes into `memory` under the task's name."""
    named = {key: _path(value) for key, value in expert.items()}
    model = named.get("model")
    if isinstance(model, nn.Module | Mapping):
        memory.experts[task] = model
        named |= {"model": IN_MEMORY, "task": task}
    for key in _ROWS:
        if named.get(key) is not None and not isinstance(named[key], str | DataSource | Mapping):
            getattr(memory, key)[task] = named[key]
            named[key] = IN_MEMORY
    return named


def open_all(config: MergeConfig, memory: InMemory) -> Experts:
    """Open base and experts, wherever they are; what is on disk is loaded where another is in memory.

    Raises:
        ConfigError: A model cannot be found.
        IncompatibleExpertsError: With every problem of every expert, a line each.
    """
    if memory.base is None and not memory.experts:
        return open_experts(config)
    base = _loaded(config.base_model, config) if memory.base is None else memory.base
    experts = {
        model.name: memory.experts[model.name] if model.name in memory.experts else _loaded(model.model, config)
        for model in config.models
    }
    return from_modules(base, experts, config.parameters)  # pyright: ignore


def _loaded(source: str, config: MergeConfig) -> nn.Module:
    """A checkpoint as a module of its own class, in the dtype on disk."""
    trust = config.trust_remote_code
    checkpoint = open_checkpoint(source, allow_pickle=config.allow_pickle, trust_remote_code=trust)
    cls = getattr(transformers, checkpoint.architecture, transformers.AutoModel)
    with without_bars():
        return cls.from_pretrained(checkpoint.folder, dtype="auto", **({"trust_remote_code": True} if trust else {}))


def read_all(config: MergeConfig, experts: Experts, memory: InMemory) -> Data:
    """Every task's rows, wherever they are.

    Raises:
        ConfigError: There are no calibration rows at all, or rows cannot be used.
    """
    if experts.checkpoint is not None and not (memory.calibration or memory.evaluation):
        return load_data(config, experts)
    for rows in (*memory.calibration.values(), *memory.evaluation.values()):
        if not isinstance(rows, Rows):
            raise ConfigError(f"rows: expected adamerge.data.rows.Rows, found {type(rows).__name__}.")
    return Data(memory.calibration, memory.evaluation, {}, ())  # pyright: ignore


def _path(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
