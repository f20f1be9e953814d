"""Open the experts of a configuration and build the model to learn on; finds every problem with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from adamerge.calibration.pseudo_answers import answer
from adamerge.data.rows import Rows
from adamerge.data.text_rows import Prompts
from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import Checkpoint, open_checkpoint
from adamerge.experts.experts import KEEP, Experts
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.skeleton import skeleton
from adamerge.experts.teacher import with_teacher
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.grouping import Grouping, block_wise, component_wise, task_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, hold
from adamerge.merging.rounding import Rounding, rounding_of
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.beside import names_beside
from adamerge.results.evaluate import MEAN
from adamerge.runs.adapter_limits import check_adapter
from adamerge.runs.centre import FinishedMerges, centre_of, fisher_inputs, over_one_group, plain_vectors, weights_beside
from adamerge.runs.choose_memory import execution_for
from adamerge.runs.common_tokenizer import check_adapters, is_complete, no_rows, with_common_tokenizer
from adamerge.runs.components import COMPONENT, check_components, components, ranks
from adamerge.runs.config import MergeConfig
from adamerge.runs.run_directory import RunDirectory, keeper_for
from adamerge.runs.start import start_of
from adamerge.storage.kept import SILENT, Keeper
from adamerge.transforms.mixtures import by_matrix
from adamerge.transforms.stored import transformed
from adamerge.types import ConfigError, IncompatibleExpertsError, quoted

GROUPINGS: Mapping[str, Callable[[Sequence[str]], Grouping]] = {
    "task": task_wise,
    "block": block_wise,
    "tensor": tensor_wise,
    "component": tensor_wise,
}
"""Groups of tensors; those of components have the starts of their tensor."""

WRITTEN = (".json", ".safetensors", ".jinja", ".partial")
"""Endings of the files that are written beside the folders of tasks."""

_LONGEST_NAME = 200
"""Largest number of bytes in the name of a task; file systems allow 255, and names of files are made of it."""


def open_experts(config: MergeConfig) -> Experts:
    """Open base and experts; reads only configurations and headers.

    Raises:
        ConfigError: A model cannot be found, or two tasks have the same name.
        IncompatibleExpertsError: Lists every problem of every expert, one per line.
    """
    check_names(config.names, keep=config.keep is not None)
    problems: list[str] = []
    opened: dict[str, Checkpoint] = {}
    may = {"allow_pickle": config.allow_pickle, "trust_remote_code": config.trust_remote_code}
    base: Checkpoint | None = None
    try:
        base = open_checkpoint(config.base_model, **may)
    except (ConfigError, IncompatibleExpertsError) as error:
        problems += error.problems
    for model in config.models:
        try:
            opened[model.name] = open_expert(model.model, base, adapter=model.adapter, **may)
        except (ConfigError, IncompatibleExpertsError) as error:
            problems += error.problems
    problems += _taken(config.names, base, list(opened.values())) if base else []
    if base and config.tokenizer is not None and not problems:
        base, opened = _one_tokenizer(config.tokenizer, config, base, opened)
    zero_shot = {model.name: model.zero_shot for model in config.models if model.zero_shot}
    if base and opened:
        try:
            experts = from_checkpoints(base, opened, config.parameters, zero_shot)
            _check_base(base, experts)
        except (ConfigError, IncompatibleExpertsError) as error:
            problems += error.problems
        else:
            if not problems:
                return with_teacher(experts) if config.keep else experts
    raise IncompatibleExpertsError(*problems)


def _check_base(base: Checkpoint, experts: Experts) -> None:
    """Check that a task's class can be built from the base's settings, as export opens what all tasks share."""
    task = next(iter(experts.tasks.values()))
    if task.checkpoint is not None and type(task.own_module).__name__ != base.architecture:
        skeleton(base.config, type(task.own_module).__name__, trust_remote_code=task.checkpoint.trust_remote_code)


def _one_tokenizer(
    choice: str, config: MergeConfig, base: Checkpoint, opened: Mapping[str, Checkpoint]
) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """Give base and experts one tokenizer; adapters are opened again over the base that has it."""
    complete = {name: one for name, one in opened.items() if is_complete(one)}
    common, found = with_common_tokenizer(choice, base, complete)
    adapters = {name: one for name, one in opened.items() if name not in complete}
    check_adapters(choice, common, base, adapters)
    for model in config.models:
        if model.name in adapters:
            try:
                again = open_expert(model.model, common, adapter=model.adapter, allow_pickle=config.allow_pickle)
            except IncompatibleExpertsError as error:  # it fitted the base, so the rows are to blame
                raise IncompatibleExpertsError(no_rows(model.name, choice)) from error
            found[model.name] = again
    return common, {name: found[name] for name in opened}


def check_names(names: Sequence[str], *, keep: bool = False) -> None:
    """Check that there are names of tasks, that they differ, can be names of folders, and are no word of the results.

    Args:
        names: Names of the experts' tasks.
        keep: Whether the base has rows too.

    Raises:
        ConfigError: Names the key to set.
    """
    if not names:
        raise ConfigError("models: expected at least one expert, found none; add {model: …} to the list.")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(
            f"models: expected a different name per expert, found {', '.join(twice)} twice; set the key task of one."
        )
    for name in names:
        if name == MEAN:
            raise ConfigError(
                f"models: expected another name than {MEAN!r}, which is the mean over tasks in all results; set the "
                "key task."
            )
        if keep and name == KEEP:
            raise ConfigError(
                f"models: expected another name than {KEEP!r}, which is the base's where the key keep is set; set the "
                "key task."
            )
        if not _names_folder(name):
            raise ConfigError(
                f"models: expected a name that can be the name of a folder, found {quoted(name)}; set the key task."
            )


def _names_folder(name: str) -> bool:
    r"""Return whether a name can be that of a folder, and be printed: one part of a path, not hidden.

    Example:
        >>> [_names_folder(name) for name in ("news", "two words", "..", "a/b", ".news", "a\n", " a", "\ud800")]
        [True, True, False, False, False, False, False, False]
    """
    path = name == name.strip() and not name.startswith(".") and Path(name).name == name
    return path and name.isprintable() and 0 < len(name.encode()) <= _LONGEST_NAME


def _taken(names: Sequence[str], base: Checkpoint, experts: Sequence[Checkpoint]) -> list[str]:
    """List the names of tasks that something else in the merged folder has, which holds files of base and experts."""
    files = {file.name for file in base.folder.iterdir() if file.is_file()}
    taken = {name.casefold() for name in files.union(*(names_beside(one) for one in (base, *experts)))}
    return [
        f"models: expected a name that no file of the merged folder has, found {quoted(name)}; set the key task."
        for name in names
        if name.casefold() in taken or Path(name).suffix.lower() in WRITTEN
    ]


def answers_to(
    config: MergeConfig,
    experts: Experts,
    names: Sequence[str],
    rows: Mapping[str, Rows],
    folder: Path,
    keeper: Keeper = SILENT,
) -> dict[str, Rows]:
    """Add pseudo-answers to the calibration rows, if the configuration requests them, and store them in a folder.

    Args:
        config: Options of generation, seed and rows per forward pass.
        experts: Base and experts.
        names: Parameters to merge.
        rows: Calibration rows per task.
        folder: Folder of the stored answers.
        keeper: Stores the answers under their cache key.

    Returns:
        Calibration rows per task; prompts have answers as their completions.
    """
    if not any(isinstance(own, Prompts) for own in rows.values()):
        return dict(rows)
    model = over_one_group(experts, plain_vectors(config, experts, names))
    seed, size = config.seed_everything, config.data.micro_batch
    return answer(model, rows, config.data.pseudo_answers, seed=seed, size=size, folder=folder, keeper=keeper)


def build_model(
    config: MergeConfig,
    experts: Experts,
    names: Sequence[str],
    run: RunDirectory | Path,
    rows: Mapping[str, Rows] | None = None,
    console: Console | None = None,
    keeper: Keeper | None = None,
    watch: Mapping[str, Rows] | None = None,
) -> MergedModel:
    """Build the model to learn on: task vectors of the parameters `names`, transformed as configured, and grouped.

    Args:
        config: Centre, transform, grouping, dtype, and where task vectors are held.
        experts: Base and experts.
        names: Parameters to merge.
        run: Run directory, or any folder, for a stored centre and transformed task vectors.
        rows: Calibration rows per task, for a transform or a centre that uses them (not the base's); without rows their
            stored results are read.
        console: Shows the progress of a transform.
        keeper: Stores centre and task vectors under their cache keys.
        watch: Held-out rows per task, on which `centre: auto` judges.

    Raises:
        ConfigError: A centre or transform needs rows, there are none, and no stored result has the same key.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory(run)
    rows, console = rows or {}, console or Console(quiet=True)
    keeper = keeper or keeper_for(console)
    of_experts = without_keep(rows)
    merges = FinishedMerges(config, experts, names, run, of_experts, console, keeper)
    centre = centre_of(merges, watch)
    vectors = plain_vectors(config, experts, names, centre, weights_beside(merges, centre))
    if config.task_vectors is not None:
        with fisher_inputs(config.task_vectors, experts, vectors, run, of_experts, console, keeper) as fisher:
            transform = by_matrix(config.task_vectors, experts.layouts)
            vectors = transformed(
                vectors, centre, transform, run.task_vectors, console=console, keeper=keeper, **fisher
            )
    choice = execution_for(config, experts, names, rows, vectors.device)
    for line in choice.lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    resident = choice.need.mode == "resident" and config.trainer.strategy != "fsdp2"  # there, each process holds rows
    vectors, rounding = hold(vectors, resident, None), rounding_by(config, experts)
    if config.grouping != COMPONENT:
        return MergedModel(experts, vectors, GROUPINGS[config.grouping](names), rounding, choice.blocks)
    assert isinstance(vectors, Factored)  # check_components
    grouping = component_wise(components(ranks(experts, names)))
    return MergedModel(experts, vectors.by_component(), grouping, rounding, choice.blocks)


def without_keep(rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """Leave out the base's rows: it has no weights to put into a merge by rows."""
    return {task: own for task, own in rows.items() if task != KEEP}


def rounding_by(config: MergeConfig, experts: Experts) -> Rounding:
    """Choose how numbers are written; an adapter's change is added to the base, so nothing merged is rounded."""
    dtype = config.written_dtype
    backbone = torch.float32 if adapter_of(config.export) else dtype
    return replace(rounding_of(experts, backbone, config.rounding, config.seed_everything), heads=dtype)


def check_task_vectors(config: MergeConfig, experts: Experts, names: Sequence[str]) -> None:
    """Check, before anything is written, that the transforms of task vectors and centre support the experts.

    Raises:
        ConfigError: There are too few experts, the method supports neither the parameters nor the labels, or an adapter
            is exported and cannot hold the merge.
    """
    check_components(config, experts, names)
    shapes = {name: experts.base.shape(name) for name in names}
    for key, transform in config.transforms.items():
        transform.check(len(experts.tasks), shapes)
        if transform.fisher and transform.fisher.labels == "expected":
            language_models = [task for task, expert in experts.tasks.items() if expert.kind.language_model]
            if language_models:
                raise ConfigError(
                    f"{key}.labels: expected sampled or likeliest for language models, found expected "
                    f"({', '.join(language_models)}): it would need one backward pass per token of the vocabulary. "
                    "Set labels: sampled."
                )
    check_adapter(config, experts, names)


def check_start(config: MergeConfig, names: Sequence[str]) -> None:
    """Refuse before anything is written start coefficients that the groups of the parameters `names` cannot have.

    Raises:
        ConfigError: A group would need two starts, or weights to be divided by their sum sum to 0.
    """
    start_of(config, GROUPINGS[config.grouping](names))
