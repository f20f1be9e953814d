"""What Python users hold instead of paths: modules, state dicts, texts, datasets."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from adamerge.data.in_memory import RowsLike, as_table
from adamerge.data.modality import AnyProcessor
from adamerge.data.settings import DataSource, EvaluationSource
from adamerge.experts.checkpoint import Checkpoint, has_adapter, locate, open_checkpoint
from adamerge.experts.experts import KEEP, Expert, Experts
from adamerge.experts.from_modules import from_modules
from adamerge.experts.teacher import with_teacher
from adamerge.experts.tensors_alone import REFUSED, TensorsAlone
from adamerge.runs.build_model import check_names, open_experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.model_config import Keep, ModelConfig
from adamerge.types import ConfigError, Fact

Model: TypeAlias = str | os.PathLike[str] | nn.Module | Mapping[str, Tensor]
"""A checkpoint (directory or hub id), a module, or a state dict."""

Weights: TypeAlias = nn.Module | Mapping[str, Tensor]
"""A model in memory."""

IN_MEMORY = "(in memory)"
"""What a configuration says where there is no path."""

ROWS = ("calibration", "evaluation")


@dataclass(frozen=True, eq=False)
class InMemory:
    """Models and rows that have no path.

    Attributes:
        models: By task; the base's name is the empty string.
        rows: By task, and by what they are for (calibration, evaluation).
    """

    models: dict[str, Weights] = field(default_factory=dict[str, Weights])
    rows: dict[tuple[str, str], RowsLike] = field(default_factory=dict[tuple[str, str], RowsLike])

    @property
    def words(self) -> list[str]:
        """What it is, as keys of the configuration."""
        models = [f"model of {task}" if task else "base_model" for task in self.models]
        return models + [f"{key} of {task}" for task, key in self.rows]

    def take_model(self, model: Model, task: str = "") -> str:
        """Return the model as a configuration names it; one without a path is kept here."""
        if isinstance(model, str | os.PathLike):
            return os.fspath(model)
        self.models[task] = model
        return IN_MEMORY

    def take_rows(self, rows: RowsLike | None, task: str, key: str) -> object:
        """Return rows as a configuration names them; those without a path are kept here."""
        if isinstance(rows, DataSource) and key == "evaluation":
            return rows if isinstance(rows, EvaluationSource) else EvaluationSource(**vars(rows))
        if rows is None or isinstance(rows, str | DataSource):
            return rows
        if isinstance(rows, os.PathLike):
            return os.fspath(rows)
        place = rows.get("path") if isinstance(rows, Mapping) else None
        if isinstance(place, str | os.PathLike):
            return {**dict(rows), "path": os.fspath(place)}  # pyright: ignore
        self.rows[task, key] = rows
        return IN_MEMORY

    def take_kept(self, settings: Mapping[str, object]) -> dict[str, object]:
        """Return settings as a configuration has them, in which the base's rows may have no path."""
        keep = settings.get("keep")
        keep = vars(keep) if isinstance(keep, Keep) else keep
        if not isinstance(keep, Mapping) or "calibration" not in keep:
            return dict(settings)
        rows = self.take_rows(keep["calibration"], KEEP, "calibration")
        return {**settings, "keep": {**keep, "calibration": rows}}

    def put_back(self, config: MergeConfig) -> MergeConfig:
        """Return the configuration with the rows in place of the words that stand for them."""
        models = [self._with_rows(model, config.seed_everything) for model in config.models]
        return replace(config, models=models, keep=config.keep and self._with_kept(config.keep, config.seed_everything))

    def _with_kept(self, keep: Keep, seed: int) -> Keep:
        rows = self.rows.get((KEEP, "calibration"))
        return keep if rows is None else replace(keep, calibration=_table(rows, KEEP, seed, "calibration"))

    def _with_rows(self, model: ModelConfig, seed: int) -> ModelConfig:
        mine = {key: _table(rows, task, seed, key) for (task, key), rows in self.rows.items() if task == model.name}
        return replace(model, **mine)  # pyright: ignore[reportArgumentType]


def _table(rows: RowsLike, task: str, seed: int, key: str) -> RowsLike:
    """Return rows in memory; those given with column names, under `path`, as a table that knows these."""
    if not (isinstance(rows, Mapping) and "path" in rows):
        return rows
    columns = {str(key): value for key, value in rows.items() if key != "path"}
    source = EvaluationSource if key == "evaluation" else DataSource
    return as_table(rows["path"], task, source(IN_MEMORY, **columns), seed)  # pyright: ignore


def open_all(config: MergeConfig, memory: InMemory) -> Experts:
    """Open base and experts, on disk or in memory.

    Raises:
        ConfigError: A model cannot be found.
        IncompatibleExpertsError: With every problem of every expert, a line each.
    """
    if not memory.models:
        return open_experts(config)
    check_names(config.names, keep=config.keep is not None)
    for model in config.models:
        if model.adapter is not None:
            raise ConfigError(_no_file(model.adapter))
    base, *experts = (
        memory.models[task] if task in memory.models else _opened(source, config)
        for task, source in [("", config.base_model), *((model.name, model.model) for model in config.models)]
    )
    found = from_modules(base, dict(zip(config.names, experts, strict=True)), config.parameters)  # pyright: ignore
    found = with_teacher(found) if config.keep else found
    if any(isinstance(expert.module, TensorsAlone) for expert in found.tasks.values()) and _runs(config):
        raise ConfigError(f"{config.names[0]}: {REFUSED}")
    return found


def _runs(config: MergeConfig) -> bool:
    """Return whether rows run through models."""
    return config.needs_rows or any(
        rows is not None for model in config.pools for rows in (model.calibration, model.evaluation)
    )


def with_processors(experts: Experts, given: Mapping[str, AnyProcessor] | None) -> tuple[Experts, list[str]]:
    """Put given processors in the place of those beside the experts' checkpoints, so that the export gets them.

    They are saved to temporary folders, which live as long as the experts.

    Args:
        experts: Base and experts.
        given: Tokenizer or image processor by task.

    Returns:
        The experts, and notes on what is not exported.
    """
    folders, notes, tasks = dict[int, Path](), list[str](), dict[str, Expert]()
    for task, expert in experts.tasks.items():
        one = given.get(task) if given else None
        tasks[task] = expert
        if one is None:
            continue
        if expert.checkpoint is None:  # whoever holds a model in memory holds its processor too
            notes.append(Fact(f"{task}: the given processor is not exported, because its model is in memory."))
            continue
        if not hasattr(one, "save_pretrained"):
            notes.append(f"{task}: the given processor has no save_pretrained, so the export has the one on disk.")
            continue
        if id(one) not in folders:
            folders[id(one)] = Path(tempfile.mkdtemp(prefix="adamerge-"))
            one.save_pretrained(folders[id(one)])
        tasks[task] = replace(expert, checkpoint=replace(expert.checkpoint, given=folders[id(one)]))
    found = replace(experts, tasks=tasks)
    for folder in folders.values():
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found, notes


def _opened(source: str, config: MergeConfig) -> Checkpoint:
    if has_adapter(locate(source, config.allow_pickle, inside=True)):
        raise ConfigError(_no_file(source))
    return open_checkpoint(source, allow_pickle=config.allow_pickle, trust_remote_code=config.trust_remote_code)


def _no_file(adapter: str) -> str:
    return (
        f"{adapter}: an adapter is added to a base in files, but a model of this merge is in memory. Save it with "
        "save_pretrained and give its path."
    )


def by_task(
    processor: AnyProcessor | Mapping[str, AnyProcessor] | None, tasks: Sequence[str]
) -> Mapping[str, AnyProcessor] | None:
    """Return processors by task, where one was given for all."""
    return processor if processor is None or isinstance(processor, Mapping) else dict.fromkeys(tasks, processor)
