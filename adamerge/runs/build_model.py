"""From a configuration to opened experts and a model to learn on; every problem with them is found here."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch
from rich.console import Console

from adamerge.calibration.fisher_information import fisher_information
from adamerge.calibration.pseudo_answers import answer
from adamerge.calibration.regmean import RegMean, kept_regmean
from adamerge.data.rows import Rows
from adamerge.data.text_rows import Prompts
from adamerge.experts.checkpoint import Checkpoint, open_checkpoint
from adamerge.experts.experts import Experts
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.merging.grouping import Grouping, block_wise, task_wise, tensor_wise
from adamerge.merging.memory import free_memory
from adamerge.merging.merged_model import MergedModel, hold, task_vectors
from adamerge.merging.task_vectors import TaskVectors
from adamerge.runs.config import MergeConfig
from adamerge.storage.weights import Weights, metadata_of
from adamerge.transforms import Transform
from adamerge.transforms.stored import merged_at_once, transformed
from adamerge.types import ConfigError, IncompatibleExpertsError

CENTRE = "centre.safetensors"

ANSWERS = "answers"
"""Folder of the pseudo-answers in a run directory."""

GROUPINGS: Mapping[str, Callable[[Sequence[str]], Grouping]] = {
    "task": task_wise,
    "block": block_wise,
    "tensor": tensor_wise,
}


def open_experts(config: MergeConfig) -> Experts:
    """Open base and experts; only configurations and headers are read.

    Raises:
        ConfigError: A model cannot be found, or two tasks have one name.
        IncompatibleExpertsError: With every problem of every expert, a line each.
    """
    _check_names(config.names)
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


def answers_to(
    config: MergeConfig, experts: Experts, names: Sequence[str], rows: Mapping[str, Rows], run_dir: Path
) -> dict[str, Rows]:
    """Calibration rows with their pseudo-answers, if so configured; these are kept in the run directory."""
    if not any(isinstance(own, Prompts) for own in rows.values()):
        return dict(rows)
    model = _over_one_group(experts, _plain(config, experts, names))
    seed, size = config.seed_everything, config.data.micro_batch
    return answer(model, rows, config.data.pseudo_answers, seed=seed, size=size, folder=run_dir / ANSWERS)


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
    centre = _centre(config, experts, names, store.with_name(CENTRE), rows or {}, console)
    vectors = _plain(config, experts, names, centre)
    if config.task_vectors is not None:
        with _information(config.task_vectors, experts, vectors, store, rows or {}, console) as look:
            vectors = transformed(vectors, centre, config.task_vectors, store, information=look, console=console)
    resident = {"auto": None, "resident": True, "mapped": False}[config.memory]
    vectors = hold(vectors, resident, free_bytes(vectors.device))
    return MergedModel(experts, vectors, GROUPINGS[config.grouping](names))


def check_task_vectors(config: MergeConfig, experts: Experts, names: Sequence[str]) -> None:
    """Refuse before anything is written what the transforms of task vectors, or the centre's, cannot work with.

    Raises:
        ConfigError: Too few experts, parameters that mean nothing to the method, or labels it cannot have.
    """
    shapes = {name: experts.base.shape(name) for name in names}
    for key, transform in config.transforms.items():
        transform.check(len(experts.tasks), shapes)
        if transform.fisher and transform.fisher.labels == "expected":
            speaking = [task for task, expert in experts.tasks.items() if expert.kind.language_model]
            if speaking:
                raise ConfigError(
                    f"{key}: labels: {', '.join(speaking)} speaks at every position, where an expectation over all "
                    "labels would take a backward pass a word; take sampled."
                )


def _plain(config: MergeConfig, experts: Experts, names: Sequence[str], centre: Weights | None = None) -> TaskVectors:
    """Plain task vectors, mapped from their files."""
    device, dtype = torch.device(_accelerator(config)), getattr(torch, config.dtype)
    return task_vectors(experts, names, centre=centre, resident=False, dtype=dtype, device=device)


@contextmanager
def _information(
    transform: Transform,
    experts: Experts,
    plain: TaskVectors,
    store: Path,
    rows: Mapping[str, Rows],
    console: Console | None,
) -> Iterator[Callable[[], TaskVectors] | None]:
    """How to look at calibration rows, for a transform that does; what was seen is kept no longer than this."""
    if not transform.fisher:
        yield None
        return
    _check_remade(store, rows)
    look, model = store.with_name("information"), _over_one_group(experts, plain)
    yield partial(fisher_information, model, rows, transform.fisher, look, console)
    shutil.rmtree(look, ignore_errors=True)  # as large as all experts, and of no more use


def _over_one_group(experts: Experts, vectors: TaskVectors) -> MergedModel:
    """A model to run the experts with, before there is a grouping."""
    return MergedModel(experts, vectors, task_wise(tuple(vectors.shapes)))


def _check_remade(place: Path, rows: Mapping[str, Rows]) -> None:
    """Refuse to open a finished run once more where what it made of its rows is gone or damaged."""
    if not rows and not place.is_dir() and metadata_of(place) is None:
        raise ConfigError(
            f"{place}: expected what the run made of its rows, but it is damaged or is gone; run it once more."
        )


def _centre(
    config: MergeConfig,
    experts: Experts,
    names: Sequence[str],
    file: Path,
    rows: Mapping[str, Rows],
    console: Console | None,
) -> Weights:
    """What task vectors are added to and taken from."""
    if config.centre is None:
        return experts.base
    plain = _plain(config, experts, names)
    if isinstance(config.centre, Transform):
        with _information(config.centre, experts, plain, file, rows, console) as look:
            return merged_at_once(plain, config.centre, file, information=look, console=console)
    settings = RegMean() if config.centre == "regmean" else config.centre
    _check_remade(file, rows)
    return kept_regmean(_over_one_group(experts, plain), rows, settings, file, config.data.micro_batch)


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
        places = zip(*(name.split(".")[:-1] for name in inside), strict=False)  # what stands first, second, …
        common = ".".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, places))
        said += [f"{common}.* ({len(inside)})"] if len(inside) > few else inside
    return ", ".join(said)


def _accelerator(config: MergeConfig) -> str:
    wanted = config.trainer.accelerator
    return "cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu"
