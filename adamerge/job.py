"""From a configuration to opened experts, encoded rows and a model to learn on; every problem is found here."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adamerge.answers import answer
from adamerge.checkpoint import Checkpoint, open_checkpoint
from adamerge.config import MergeConfig, ModelConfig, source_of
from adamerge.data import DataSource, Rows
from adamerge.encoding import Encoded, Processor, check_vocabulary, encode, lend_padding, load_processor
from adamerge.experts import Experts, from_checkpoints
from adamerge.grouping import Grouping, block_wise, task_wise, tensor_wise
from adamerge.merged import MergedModel, hold, task_vectors, try_layers
from adamerge.objectives import Objective
from adamerge.speech import Speech
from adamerge.tables import load_table
from adamerge.task_vectors import TaskVectors
from adamerge.text import Prompts
from adamerge.transforms.store import transformed
from adamerge.types import ConfigError, IncompatibleExpertsError

ANSWERS = "answers"
"""Folder of the pseudo-answers in a run directory."""

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
        fingerprints: SHA-256 of the rows' content, by task and what they are for (calibration, evaluation).
        notes: What a user should know of them.
    """

    calibration: Mapping[str, Rows]
    evaluation: Mapping[str, Rows]
    fingerprints: Mapping[str, Mapping[str, str]]
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
    notes: list[str] = list(lend_padding(processor, first.module))
    problems: list[str] = []
    calibration: dict[str, Encoded] = {}
    evaluation: dict[str, Encoded] = {}
    for model in config.models:
        try:
            expert = experts.tasks[model.name].checkpoint
            if expert is not None:
                check_vocabulary(processor, experts.checkpoint, expert, model.name)
            if calibrate:
                if model.calibration is None:
                    raise ConfigError(f"{model.name}: expected calibration rows (key calibration), but there are none.")
                calibration[model.name] = _read(model, source_of(model.calibration), experts, processor, config)
                notes += calibration[model.name].notes
            if model.evaluation is not None:
                source = source_of(model.evaluation)
                evaluation[model.name] = _read(model, source, experts, processor, config, labeled=True)
                notes += [*evaluation[model.name].notes, *_overlap_note(model.name, calibration, evaluation)]
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return Data(
        {task: encoded.rows for task, encoded in calibration.items()},
        {task: encoded.rows for task, encoded in evaluation.items()},
        {model.name: _fingerprints(model.name, calibration, evaluation) for model in config.models},
        tuple(notes),
    )


def check_layers(objective: Objective, experts: Experts, data: Data) -> None:
    """Refuse hidden states that the experts do not have, before anything is learned.

    Raises:
        ConfigError: A layer is out of range, or the models return no hidden states.
    """
    if objective.layers:
        for task, rows in data.calibration.items():
            tried = rows.answered([[0]] * len(rows)) if isinstance(rows, Prompts) else rows
            try_layers(experts.tasks[task].module, tried.batch([0]).inputs, objective.layers)


def answers_to(model: MergedModel, rows: Mapping[str, Rows], config: MergeConfig, run_dir: Path) -> dict[str, Rows]:
    """Calibration rows with their pseudo-answers, if so configured; these are kept in the run directory."""
    seed, size = config.seed_everything, config.data.micro_batch
    return answer(model, rows, config.data.pseudo_answers, seed=seed, size=size, folder=run_dir / ANSWERS)


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
    return [*lines, *(f"warning: {warning}" for warning in experts.warnings)]


def _read(
    model: ModelConfig,
    source: DataSource,
    experts: Experts,
    processor: Processor,
    config: MergeConfig,
    *,
    labeled: bool = False,
) -> Encoded:
    table = load_table(source, model.name, config.seed_everything)
    notes: list[str] = []
    if not labeled:
        table = table.sample(config.data.rows, config.seed_everything)
        if source.label in table.data.column_names:
            notes.append(f"{model.name}: the column {source.label!r} of the calibration rows is ignored.")
    module, length = experts.tasks[model.name].module, config.data.max_length
    classes = model.zero_shot.classes if model.zero_shot else None
    answers = None if labeled else config.data.pseudo_answers
    speech = Speech(config.data.positions, answers.max_new_tokens if answers else None)
    encoded = encode(table, module, processor, labeled=labeled, max_length=length, classes=classes, speech=speech)
    return encoded._replace(notes=(*notes, *encoded.notes))


def _fingerprints(task: str, calibration: Mapping[str, Encoded], evaluation: Mapping[str, Encoded]) -> dict[str, str]:
    both = {"calibration": calibration, "evaluation": evaluation}
    return {purpose: tasks[task].contents.fingerprint for purpose, tasks in both.items() if task in tasks}


def _overlap_note(task: str, calibration: Mapping[str, Encoded], evaluation: Mapping[str, Encoded]) -> list[str]:
    if task not in calibration:
        return []
    both = calibration[task].contents.overlap(evaluation[task].contents)
    if not both:
        return []
    return [f"warning: {task}: {both} calibration rows stand in the evaluation rows too; its score flatters."]


def _accelerator(config: MergeConfig) -> str:
    wanted = config.trainer.accelerator
    return "cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu"
