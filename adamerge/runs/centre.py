"""Build the centre, to which weighted task vectors are added, and the Fisher information that a transform needs."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypedDict

import torch
from rich.console import Console

from adamerge.calibration.cache_keys import digest_of_rows
from adamerge.calibration.calibrated_merge import CalibratedMerge, kept_merge
from adamerge.calibration.fisher_information import fisher_information
from adamerge.calibration.race import Auto
from adamerge.data.rows import Rows
from adamerge.experts.experts import Experts
from adamerge.merging.device import device_of
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.task_vectors import TaskVectors
from adamerge.runs.auto_centre import AutoCentre
from adamerge.runs.choose_memory import execution_for
from adamerge.runs.config import MergeConfig
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.kept import Keeper
from adamerge.storage.weights import Weights
from adamerge.transforms import Transform
from adamerge.transforms.mixtures import by_matrix
from adamerge.transforms.stored import merged_at_once


class FisherInputs(TypedDict):
    """Fisher information for a transform; the names are arguments of `transformed`.

    Attributes:
        information: Computes the experts' Fisher information; None if there are no rows, or none are needed.
        rows: Hash of the rows.
    """

    information: Callable[[], TaskVectors] | None
    rows: str | None


def centre_of(merges: "FinishedMerges", watch: Mapping[str, Rows] | None = None) -> Weights:
    """Return the base, or compute or read the merge that the configuration names as centre.

    Args:
        merges: Configuration, experts and rows.
        watch: Held-out rows per task, on which `centre: auto` judges; the calibration rows if there are none.
    """
    config, run = merges.config, merges.run
    if config.centre is None:
        return merges.experts.base
    chosen = config.chosen_centre
    if isinstance(chosen, CalibratedMerge | Transform):
        return merges(chosen, run.centre)
    assert isinstance(chosen, Auto)  # the only other choice
    rows, console = watch or merges.rows, merges.console
    return AutoCentre(
        config, chosen, merges.model, run, rows, merges, merges.files_beside, console, merges.keeper
    ).weights()


def weights_beside(merges: "FinishedMerges", centre: Weights) -> dict[str, Weights]:
    """Compute or read the models that get a coefficient beside the experts, by the names of their columns.

    Which of them is the centre itself, whose task vector is zero, is printed.
    """
    config, files = merges.config, merges.files_beside
    found = {
        name: merges.experts.base if model == "base" else merges(model, files[name])
        for name, model in config.models_beside.items()
    }
    for name, weights in found.items():
        if all(torch.equal(weights[one], centre[one]) for one in merges.names):
            line = f"note: beside: {name} is the centre itself, so its coefficients change nothing"
            merges.console.print(line, markup=False, highlight=False, soft_wrap=True)
    return found


@dataclass(frozen=True, eq=False)
class FinishedMerges:
    """Computes finished merges, or reads them from their files.

    Attributes:
        config: Centre, dtype, device and rows per forward pass.
        experts: Base and experts.
        names: Parameters to merge.
        run: Stores the merges.
        rows: Calibration rows per task, for merges that use them.
        console: Shows progress.
        keeper: Stores the merges under their cache keys.
    """

    config: MergeConfig
    experts: Experts
    names: Sequence[str]
    run: RunDirectory
    rows: Mapping[str, Rows]
    console: Console
    keeper: Keeper

    @cached_property
    def model(self) -> MergedModel:
        """Experts and untransformed task vectors of one group."""
        plain = plain_vectors(self.config, self.experts, self.names)
        choice = execution_for(self.config, self.experts, self.names, self.rows, plain.device)
        return over_one_group(self.experts, plain, choice.blocks)

    @property
    def files_beside(self) -> dict[str, Path]:
        """Files of the merges that get a coefficient beside the experts, by the names of their columns."""
        folder, models = self.run.beside, self.config.models_beside.items()
        return {name: folder / f"{n}_{name}.safetensors" for n, (name, model) in enumerate(models) if model != "base"}

    def __call__(self, choice: CalibratedMerge | Transform, file: Path) -> Weights:
        """Compute one merge, and store it in a file under its cache key."""
        model, rows, keeper = self.model, self.rows, self.keeper
        if isinstance(choice, CalibratedMerge):
            start = partial(self, choice.refits) if choice.refits else None
            return kept_merge(model, rows, choice, file, self.config.data.micro_batch, keeper, start)
        with fisher_inputs(choice, self.experts, model.vectors, self.run, rows, self.console, keeper) as fisher:
            transform = by_matrix(choice, self.experts.layouts)
            return merged_at_once(model.vectors, transform, file, console=self.console, keeper=keeper, **fisher)


@contextmanager
def fisher_inputs(
    transform: Transform,
    experts: Experts,
    plain: TaskVectors,
    run: RunDirectory,
    rows: Mapping[str, Rows],
    console: Console,
    keeper: Keeper,
) -> Iterator[FisherInputs]:
    """Provide Fisher information to a transform that needs it, and delete its files at the end of the block.

    After an error they stay, for the run to go on with.
    """
    if not transform.fisher or not rows:
        yield FisherInputs(information=None, rows=None)
        return
    model = over_one_group(experts, plain)
    compute = partial(fisher_information, model, rows, transform.fisher, run.information, console, keeper)
    yield FisherInputs(information=compute, rows=digest_of_rows(rows, size=1))
    shutil.rmtree(run.information, ignore_errors=True)  # as large as all experts, and not needed any more


def plain_vectors(
    config: MergeConfig,
    experts: Experts,
    names: Sequence[str],
    centre: Weights | None = None,
    beside: Mapping[str, Weights] | None = None,
) -> TaskVectors:
    """Map the untransformed task vectors from the files of their checkpoints."""
    device, dtype = device_of(config.trainer.accelerator), config.work_dtype
    return task_vectors(experts, names, centre=centre, beside=beside, resident=False, dtype=dtype, device=device)


def over_one_group(experts: Experts, vectors: TaskVectors, blocks: Sequence[str] | None = None) -> MergedModel:
    """Build a model with a single group, to run the experts before there is a grouping."""
    return MergedModel(experts, vectors, task_wise(tuple(vectors.shapes)), blocks=blocks)
