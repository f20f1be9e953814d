"""From a configuration to opened experts, encoded rows and a model to learn on; every problem is found here."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch

from adamerge.checkpoint import Checkpoint, open_checkpoint
from adamerge.config import MergeConfig, ModelConfig, source_of
from adamerge.data import DataSource, Rows, load_table, overlap
from adamerge.encoding import Processor, encode, load_processor
from adamerge.experts import Experts, from_checkpoints
from adamerge.grouping import Grouping, block_wise, task_wise, tensor_wise
from adamerge.merged import MergedModel, hold, task_vectors
from adamerge.task_vectors import TaskVectors
from adamerge.transforms.store import transformed
from adamerge.types import ConfigError, IncompatibleExpertsError

GROUPINGS: Mapping[str, Callable[[Sequence[str]], Grouping]] = {
    "task": task_wise,
    "block": block_wise,
    "tensor": tensor_wise,
}


@dataclass(frozen=True, eq=False)
class Data:
    """Every task's rows.

    Attributes:
        calibration: Unlabeled, by task.
        evaluation: Labeled, by task; a task without evaluation rows is absent.
        fingerprints: What identifies the calibration table of each task.
        notes: What a user should know of them.
    """

    calibration: Mapping[str, Rows]
    evaluation: Mapping[str, Rows]
    fingerprints: Mapping[str, str]
    notes: tuple[str, ...]


def open_experts(config: MergeConfig) -> Experts:
    """Open base and experts; only configurations and headers are read.

    Raises:
        ConfigError: A model cannot be found, or two tasks have one name.
        IncompatibleExpertsError: With every problem of every expert, a line each.
    """
    _check_names([model.name for model in config.models])
    problems: list[str] = []
    opened: dict[str, Checkpoint] = {}
    for name, source in [("", config.base_model), *((model.name, model.model) for model in config.models)]:
        try:
            opened[name] = open_checkpoint(
                source, allow_pickle=config.allow_pickle, trust_remote_code=config.trust_remote_code
            )
        except (ConfigError, IncompatibleExpertsError) as error:
            problems.append(str(error))
    base = opened.pop("", None)
    zero_shot = {model.name: model.zero_shot for model in config.models if model.zero_shot}
    if base and opened:
        try:
            experts = from_checkpoints(base, opened, config.parameters, zero_shot)
        except (ConfigError, IncompatibleExpertsError) as error:
            problems.append(str(error))
        else:
            if not problems:
                return experts
    raise IncompatibleExpertsError("\n".join(problems))


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError("models: expected at least one expert.")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"models: two experts are called {', '.join(twice)}; give each its own task.")
    for name in names:
        if not name or Path(name).name != name:
            raise ConfigError(
                f"models: {name!r} cannot be the name of a folder, as a task's must; give it another task."
            )


def load_data(config: MergeConfig, experts: Experts, *, calibrate: bool = True) -> Data:
    """Read and encode the rows of every task.

    Raises:
        ConfigError: With every task whose rows are missing or cannot be used: its file, column or row.
    """
    assert experts.checkpoint is not None
    first = next(iter(experts.tasks.values()))
    processor = load_processor(experts.checkpoint, first.module)
    notes: list[str] = []
    problems: list[str] = []
    tables: dict[tuple[str, str], datasets.Dataset] = {}
    calibration: dict[str, Rows] = {}
    evaluation: dict[str, Rows] = {}
    for model in config.models:
        try:
            if calibrate:
                if model.calibration is None:
                    raise ConfigError(f"{model.name}: expected calibration rows (key calibration), but there are none.")
                source = source_of(model.calibration)
                table, rows = _read(model, source, experts, processor, config, labeled=False)
                tables["calibration", model.name], calibration[model.name] = table, rows
                if source.label in table.column_names:
                    notes.append(f"{model.name}: the column {source.label!r} of the calibration rows is ignored.")
            if model.evaluation is not None:
                source = source_of(model.evaluation)
                table, evaluation[model.name] = _read(model, source, experts, processor, config, labeled=True)
                notes += _overlap_note(model, tables, table)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    fingerprints = {task: table._fingerprint for (_, task), table in tables.items()}
    return Data(calibration, evaluation, fingerprints, tuple(notes))


def build_model(config: MergeConfig, experts: Experts, names: Sequence[str], store: Path) -> MergedModel:
    """Task vectors of the parameters `names`, transformed and kept under `store` if so configured, and grouped."""
    device = torch.device(_accelerator(config))
    room = free_bytes(device)
    dtype: torch.dtype = getattr(torch, config.dtype)
    resident = {"auto": None, "resident": True, "mapped": False}[config.memory]
    vectors: TaskVectors
    if config.task_vectors is None:
        vectors = task_vectors(experts, names, resident=resident, room=room, dtype=dtype, device=device)
    else:
        plain = task_vectors(experts, names, resident=False, dtype=dtype, device=device)
        vectors = hold(transformed(plain, experts.base, config.task_vectors, store), resident, room)
    return MergedModel(experts, vectors, GROUPINGS[config.grouping](names))


def free_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def describe(experts: Experts) -> list[str]:
    """The split of parameters in words: what is merged, what stays whose own, what is left out."""
    total = sum(experts.base.shape(name).numel() for name in experts.shared)
    lines = [f"merged: {len(experts.shared)} parameters, {total / 1e6:.1f} M numbers"]
    lines += [f"head of {name}: {', '.join(e.head)}" for name, e in experts.tasks.items() if e.head]
    if experts.kept:
        lines.append(f"kept from the base: {', '.join(experts.kept)}")
    if experts.left_out:
        lines.append(f"only the base has, so left out: {', '.join(experts.left_out)}")
    return lines


def _read(
    model: ModelConfig,
    source: DataSource,
    experts: Experts,
    processor: Processor,
    config: MergeConfig,
    *,
    labeled: bool,
) -> tuple[datasets.Dataset, Rows]:
    table = load_table(source, model.name, config.seed_everything)
    limit = config.data.rows
    if not labeled and limit is not None and limit < len(table):
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(config.seed_everything))
        table = table.select(sorted(order[:limit].tolist()))
    module = experts.tasks[model.name].module
    length = config.data.max_length
    return table, encode(table, source, model.name, module, processor, labeled=labeled, max_length=length)


def _overlap_note(
    model: ModelConfig, tables: Mapping[tuple[str, str], datasets.Dataset], table: datasets.Dataset
) -> list[str]:
    known = tables.get(("calibration", model.name))
    if known is None or model.calibration is None:
        return []
    both = overlap(known, table, source_of(model.calibration).text)
    if not both:
        return []
    return [f"warning: {model.name}: {both} calibration rows stand in the evaluation rows too; its score flatters."]


def _accelerator(config: MergeConfig) -> str:
    wanted = config.trainer.accelerator
    return "cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu"
