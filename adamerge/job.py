"""From a configuration to opened experts, encoded rows and a model to learn on; every problem is found here."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch
from rich.console import Console

from adamerge.checkpoint import Checkpoint, open_checkpoint
from adamerge.config import MergeConfig, ModelConfig, source_of
from adamerge.data import DataSource, Rows
from adamerge.encoding import Encoded, Processor, encode, load_processor
from adamerge.experts import Experts, from_checkpoints
from adamerge.grouping import Grouping, block_wise, task_wise, tensor_wise
from adamerge.information import fisher_information
from adamerge.merged import MergedModel, hold, task_vectors
from adamerge.outputs import speaks
from adamerge.regmean import RegMean, kept_regmean
from adamerge.room import free_memory
from adamerge.tables import load_table
from adamerge.task_vectors import TaskVectors
from adamerge.transforms.store import transformed
from adamerge.types import ConfigError, IncompatibleExpertsError
from adamerge.weights import Weights

CENTRE = "centre.safetensors"

GROUPINGS: Mapping[str, Callable[[Sequence[str]], Grouping]] = {
    "task": task_wise,
    "block": block_wise,
    "tensor": tensor_wise,
}


@dataclass(frozen=True, eq=False)
class Data:
    """Every task's rows.

    Attributes:
        calibration: By task, unlabeled unless the objective uses labels; a task without calibration rows is absent.
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
    """Read and encode the rows of every task that has some.

    An expert without calibration rows is a member of the pool: it gets coefficients, but no objective of its own.
    Where nothing is learned no expert needs any.

    Raises:
        ConfigError: There are no calibration rows at all, or rows cannot be used: with every file, column or row.
    """
    assert experts.checkpoint is not None
    first = next(iter(experts.tasks.values()))
    processor = load_processor(experts.checkpoint, first.module)
    notes: list[str] = []
    problems: list[str] = []
    calibration: dict[str, Encoded] = {}
    evaluation: dict[str, Encoded] = {}
    if calibrate:
        notes += _pool_note(config)
    for model in config.models:
        try:
            if calibrate and model.calibration is not None:
                source, labeled = source_of(model.calibration), config.objective.uses_labels
                calibration[model.name] = _read(model, source, experts, processor, config, labeled, sample=True)
                notes += calibration[model.name].notes
            if model.evaluation is not None:
                source = source_of(model.evaluation)
                evaluation[model.name] = _read(model, source, experts, processor, config, labeled=True, sample=False)
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


def build_model(
    config: MergeConfig,
    experts: Experts,
    names: Sequence[str],
    store: Path,
    rows: Mapping[str, Rows] | None = None,
    console: Console | None = None,
) -> MergedModel:
    """Task vectors of the parameters `names`, transformed and kept under `store` if so configured, and grouped.

    Args:
        config: Transform, grouping, dtype, and where task vectors are held.
        experts: Base and experts.
        names: Parameters to merge.
        store: Folder of transformed task vectors; those that it holds already are used.
        rows: Calibration rows, for a transform that looks at them.
        console: Where a transform reports.
    """
    device = torch.device(_accelerator(config))
    room = free_bytes(device)
    dtype: torch.dtype = getattr(torch, config.dtype)
    resident = {"auto": None, "resident": True, "mapped": False}[config.memory]
    vectors: TaskVectors
    centre = _centre(config, experts, names, store.with_name(CENTRE), rows or {})
    if config.task_vectors is None:
        vectors = task_vectors(experts, names, centre=centre, resident=resident, room=room, dtype=dtype, device=device)
    else:
        plain = task_vectors(experts, names, centre=centre, resident=False, dtype=dtype, device=device)
        whole, look = MergedModel(experts, plain, task_wise(names)), store.with_name("information")
        settings = config.task_vectors.fisher
        if settings and not rows and not store.exists():
            raise ConfigError(f"{store}: expected the task vectors of the run, but they are gone; run it once more.")
        made = transformed(
            plain,
            centre,
            config.task_vectors,
            store,
            information=partial(fisher_information, whole, rows or {}, settings, look, console) if settings else None,
            console=console,
        )
        shutil.rmtree(look, ignore_errors=True)  # as large as all experts, and of no more use
        vectors = hold(made, resident, room)
    return MergedModel(experts, vectors, GROUPINGS[config.grouping](names))


def check_task_vectors(config: MergeConfig, experts: Experts, names: Sequence[str]) -> None:
    """Refuse before anything is written what the transform of the task vectors cannot work with.

    Raises:
        ConfigError: Too few experts, parameters that mean nothing to the method, or labels it cannot have.
    """
    transform = config.task_vectors
    if transform is None:
        return
    transform.check(len(experts.tasks), {name: experts.base.shape(name) for name in names})
    if transform.fisher and transform.fisher.labels == "expected":
        speaking = [task for task, expert in experts.tasks.items() if speaks(expert.module)]
        if speaking:
            raise ConfigError(
                f"task_vectors: labels: {', '.join(speaking)} speaks at every position, where an expectation over all "
                "labels would take a backward pass a word; take sampled."
            )


def _centre(
    config: MergeConfig, experts: Experts, names: Sequence[str], file: Path, rows: Mapping[str, Rows]
) -> Weights:
    """What task vectors are added to and taken from."""
    if config.centre is None:
        return experts.base
    settings = RegMean() if config.centre == "regmean" else config.centre
    device = torch.device(_accelerator(config))
    plain = task_vectors(experts, names, resident=False, dtype=getattr(torch, config.dtype), device=device)
    return kept_regmean(MergedModel(experts, plain, task_wise(names)), rows, settings, file, config.data.micro_batch)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def describe(experts: Experts) -> list[str]:
    """The split of parameters in words: what is merged, what stays whose own, what is left out."""
    total = sum(experts.base.shape(name).numel() for name in experts.shared)
    lines = [f"merged: {len(experts.shared)} parameters, {total / 1e6:.1f} M numbers"]
    lines += [f"head of {name}: {_brief(e.whole_head)}" for name, e in experts.tasks.items() if e.head]
    if experts.kept:
        lines.append(f"kept from the base: {_brief(experts.kept)}")
    if experts.left_out:
        lines.append(f"only the base has, so left out: {_brief(experts.left_out)}")
    return [*lines, *(f"warning: {warning}" for warning in experts.warnings)]


def _brief(names: Sequence[str], few: int = 8) -> str:
    """Names, of which many under one module are given by their number: a tower that is kept has hundreds.

    Example:
        >>> _brief(["logit_scale", *(f"text.layers.0.{part}" for part in "abc")], few=2)
        'logit_scale, text.layers.0.* (3)'
    """
    said: list[str] = []
    for top in dict.fromkeys(name.partition(".")[0] for name in names):
        inside = [name for name in names if name.partition(".")[0] == top]
        levels = zip(*(name.split(".")[:-1] for name in inside), strict=False)
        common = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
        said += [f"{common}.* ({len(inside)})"] if len(inside) > few else inside
    return ", ".join(said)


def _read(
    model: ModelConfig,
    source: DataSource,
    experts: Experts,
    processor: Processor,
    config: MergeConfig,
    labeled: bool,
    *,
    sample: bool,
) -> Encoded:
    table = load_table(source, model.name, config.seed_everything)
    notes: list[str] = []
    module, length = experts.tasks[model.name].module, config.data.max_length
    if sample:
        table = table.sample(config.data.rows, config.seed_everything)
        has_labels = source.label in table.data.column_names
        if has_labels and not labeled:
            notes.append(f"{model.name}: the column {source.label!r} of the calibration rows is ignored.")
        if labeled and not has_labels and not speaks(module):
            raise table.error(
                f"the objective learns from labels, so expected a column {source.label!r} in the calibration rows, but "
                f"the columns are {', '.join(table.data.column_names)}. Name it (key calibration.label), or choose an "
                "objective that needs none, such as Entropy."
            )
    classes = model.zero_shot.classes if model.zero_shot else None
    encoded = encode(table, module, processor, labeled=labeled, max_length=length, classes=classes)
    return encoded._replace(notes=(*notes, *encoded.notes))


def _pool_note(config: MergeConfig) -> list[str]:
    """Who has no calibration rows, where they are for something.

    Raises:
        ConfigError: Nobody has, or the transform of the task vectors looks at every expert's.
    """
    without = [model.name for model in config.models if model.calibration is None]
    if not without or not config.needs_rows:
        return []
    if config.task_vectors and config.task_vectors.fisher:
        raise ConfigError(f"{', '.join(without)}: expected calibration rows (key calibration), but there are none.")
    if len(without) == len(config.models):
        raise ConfigError(
            f"{without[0]}: expected calibration rows (key calibration) of at least one task, but there are none. "
            "Name some, or take a method that needs none, such as doge, ties or average."
        )
    return [f"without calibration rows, so with coefficients alone: {', '.join(without)}"]


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
