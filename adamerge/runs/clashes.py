"""Judge settings that only together can be right: which exclude each other, and why."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

from adamerge.calibration.closed_form import ClosedForm
from adamerge.learning.keep_best import Watching
from adamerge.learning.settings import Judgement, Learning, judgements
from adamerge.merging.device import device_of
from adamerge.optim import Descent
from adamerge.runs.components import lacking_factors
from adamerge.runs.config import MergeConfig
from adamerge.runs.earlier_run import EarlierRun
from adamerge.runs.model_config import ModelConfig, source_of
from adamerge.runs.precision import precision_of
from adamerge.runs.start import check_weights
from adamerge.storage.file_names import check_names
from adamerge.types import ConfigError


class Clash(NamedTuple):
    """Settings that exclude each other.

    Attributes:
        keys: Their dotted keys.
        problem: Why, and what to do.
    """

    keys: Sequence[str]
    problem: str


def clashes(config: MergeConfig, *, here: bool, wrong: Iterable[str] = ()) -> Iterator[Clash]:
    """Yield the settings that exclude each other; of two checks of the same settings the first that fails counts.

    Args:
        config: Configuration.
        here: Whether this machine must have the devices that are asked for.
        wrong: Top-level keys whose values are wrong by themselves, and so judged with nothing.
    """
    left_out, failed = frozenset(wrong), list[set[str]]()
    for judgement in _judgements(config):
        keys = set(judgement.keys)
        known = left_out.isdisjoint(key.partition(".")[0] for key in keys) and not any(keys >= own for own in failed)
        if not known or (judgement.here and not here):
            continue
        for problem in problems_of(judgement.check):
            failed.append(keys)
            yield Clash(judgement.keys, problem)


def learning_from(config: MergeConfig, *, progress_bar: bool) -> Learning:
    """Build the options of learning from a configuration, unchecked.

    Args:
        config: Configuration.
        progress_bar: Whether to show a progress bar, unless the configuration decides.
    """
    options = {key: value for key, value in asdict(config.trainer).items() if value is not None}
    options |= {"precision": precision_of(config)}
    options.setdefault("enable_progress_bar", progress_bar)
    return Learning(
        optimizer=config.optimizer,
        scheduler=config.lr_scheduler,
        feasible=config.feasible,
        init=0.3 if isinstance(config.start, ClosedForm) else config.start,  # replaced by the closed-form start later
        batching=config.data,
        watching=watching_of(config),
        seed=config.seed_everything,
        task_weights=config.task_weights,
        regulariser=config.regulariser if config.regulariser.strength else None,
        trainer=options,
    )


def watching_of(config: MergeConfig) -> Watching:
    """Return how the best iterate is chosen: a method's mean over steps is not of optimisers that search their steps.

    Args:
        config: Configuration; a mean that the user wrote stays, and is refused with such an optimiser.
    """
    return replace(config.watch, average=0.0) if searches(config) else config.watch


def searches(config: MergeConfig) -> bool:
    """Return whether the optimiser searches its steps, while the mean over steps is the method's."""
    return isinstance(config.optimizer, Descent) and "watch.average" not in config.written


def problems_of(step: Callable[[], object]) -> list[str]:
    """Return the problems that a function raises."""
    try:
        step()
    except ConfigError as error:
        return list(error.problems)
    return []


def _judgements(config: MergeConfig) -> Iterator[Judgement]:
    yield from (Judgement([key], partial(check_names, names)) for key, names in _file_names(config).items())
    yield Judgement(["trainer.accelerator"], partial(device_of, config.trainer.accelerator), here=True)
    yield Judgement(["chunks", "grouping"], partial(_check_chunks, config))
    yield Judgement(["init", "task_vectors"], partial(_check_closed_form, config))
    yield Judgement(["task_vectors", "init", "trainer.max_steps"], partial(_check_sum, config))
    yield Judgement(["models", "init", "task_vectors"], partial(check_weights, config))
    yield from (Judgement(["grouping", key], partial(_refuse, why)) for key, why in lacking_factors(config).items())
    yield from judgements(learning_from(config, progress_bar=False), len(config.columns))


def _file_names(config: MergeConfig) -> dict[str, list[str]]:
    """List what becomes a name of a file, or is one, by key."""
    models = [name for model in config.models for name in (model.model, model.adapter, model.name, *_paths(model))]
    keep = [source_of(config.keep.calibration).path] if config.keep else []
    start = [config.init.path] if isinstance(config.init, EarlierRun) else []
    found = {
        "base_model": [config.base_model],
        "models": models,
        "run_dir": [config.run_dir],
        "init": start,
        "keep": keep,
    }
    return {key: [name for name in names if name is not None] for key, names in found.items()}


def _paths(model: ModelConfig) -> Iterator[str]:
    yield from (source_of(data).path for data in (model.calibration, model.evaluation) if data is not None)


def _refuse(problem: str) -> None:
    raise ConfigError(problem)


def _check_chunks(config: MergeConfig) -> None:
    if config.chunks is not None and config.grouping != "tensor":
        raise ConfigError(
            f"chunks: expected grouping: tensor, found {config.grouping}: the first stage has one coefficient per "
            "tensor. Set grouping: tensor; or chunks: null, which allows any grouping."
        )


def _check_closed_form(config: MergeConfig) -> None:
    if config.columns != config.names and isinstance(config.start, ClosedForm):
        raise ConfigError(
            f"init: closed_form needs one task vector per expert, but {type(config.task_vectors).__name__} makes one "
            "task vector of all experts; set init to a number, or remove task_vectors."
        )


def _check_sum(config: MergeConfig) -> None:
    if config.trainer.max_steps == 0 and config.task_vectors is not None and config.start == 0:
        raise ConfigError(
            f"task_vectors: nothing is learned and the start is 0, so {type(config.task_vectors).__name__} would add "
            "nothing to the centre; set init to another number, or remove task_vectors."
        )
