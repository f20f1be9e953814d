"""What task vectors are added to and taken from, and the Fisher information that a transform looks at."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypedDict

import torch
from rich.console import Console

from adamerge.calibration.cache_keys import digest_of_rows
from adamerge.calibration.fisher_information import fisher_information
from adamerge.calibration.regmean import RegMean, kept_regmean
from adamerge.data.rows import Rows
from adamerge.experts.experts import Experts
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.task_vectors import TaskVectors
from adamerge.runs.config import MergeConfig
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.kept import Keeper
from adamerge.storage.weights import Weights
from adamerge.transforms import Transform
from adamerge.transforms.stored import merged_at_once


class Look(TypedDict):
    """What a transform sees of calibration rows; the names are arguments of `transformed`.

    Attributes:
        information: Finds the experts' Fisher information; None where no rows are at hand, or none are needed.
        rows: Hash of the rows.
    """

    information: Callable[[], TaskVectors] | None
    rows: str | None


def centre_of(
    config: MergeConfig,
    experts: Experts,
    names: Sequence[str],
    run: RunDirectory,
    rows: Mapping[str, Rows],
    console: Console,
    keeper: Keeper,
) -> Weights:
    """The base, or the merge that the configuration names, made or read where it is kept."""
    if config.centre is None:
        return experts.base
    plain = plain_vectors(config, experts, names)
    if isinstance(config.centre, Transform):
        with looked_at(config.centre, experts, plain, run, rows, console, keeper) as look:
            return merged_at_once(plain, config.centre, run.centre, console=console, keeper=keeper, **look)
    settings = RegMean() if config.centre == "regmean" else config.centre
    model = over_one_group(experts, plain)
    return kept_regmean(model, rows, settings, run.centre, config.data.micro_batch, keeper)


@contextmanager
def looked_at(
    transform: Transform,
    experts: Experts,
    plain: TaskVectors,
    run: RunDirectory,
    rows: Mapping[str, Rows],
    console: Console,
    keeper: Keeper,
) -> Iterator[Look]:
    """How to look at calibration rows, for a transform that does; what was seen is removed at the end."""
    if not transform.fisher or not rows:
        yield Look(information=None, rows=None)
        return
    model = over_one_group(experts, plain)
    look = partial(fisher_information, model, rows, transform.fisher, run.information, console, keeper)
    yield Look(information=look, rows=digest_of_rows(rows, size=1))
    shutil.rmtree(run.information, ignore_errors=True)  # as large as all experts, and of no more use


def plain_vectors(
    config: MergeConfig, experts: Experts, names: Sequence[str], centre: Weights | None = None
) -> TaskVectors:
    """Plain task vectors, mapped from their files."""
    device, dtype = torch.device(_accelerator(config)), getattr(torch, config.dtype)
    return task_vectors(experts, names, centre=centre, resident=False, dtype=dtype, device=device)


def over_one_group(experts: Experts, vectors: TaskVectors) -> MergedModel:
    """A model to run the experts with, before there is a grouping."""
    return MergedModel(experts, vectors, task_wise(tuple(vectors.shapes)))


def _accelerator(config: MergeConfig) -> str:
    wanted = config.trainer.accelerator
    return "cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu"
