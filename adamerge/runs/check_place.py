"""Whether a run can write to its directory, and has space there, asked before anything is learned."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from adamerge.calibration.race import CentreChoice
from adamerge.experts.experts import Experts
from adamerge.merging.resident_task_vectors import resident_bytes
from adamerge.runs.config import MergeConfig
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.regular_files import is_folder
from adamerge.types import ConfigError


def check_place(run_dir: Path, config: MergeConfig) -> None:
    """Check that a run directory can be made or written, and lies in no folder that the run reads.

    Args:
        run_dir: Run directory.
        config: Configuration, for base, experts and rows.

    Raises:
        ConfigError: It lies below a file or inside a folder that is read, or nothing can be written there.
    """
    try:
        place = run_dir.resolve()
        near = next(path for path in (place, *place.parents) if os.path.lexists(path))
    except (OSError, ValueError, RuntimeError, StopIteration) as error:
        raise ConfigError(f"run_dir: {run_dir}: cannot be a folder ({error}). Choose another --run_dir.") from error
    if not is_folder(near):
        raise ConfigError(f"{run_dir}: {near} is no folder, so nothing can be written there. Choose another --run_dir.")
    if not os.access(near, os.W_OK | os.X_OK):
        raise ConfigError(f"{run_dir}: no permission to write to {near}. Choose another --run_dir, or ask its owner.")
    inside = next((folder for folder in _read(config) if place.is_relative_to(folder)), None)
    if inside is not None:
        raise ConfigError(
            f"{run_dir}: lies inside {inside}, which the run reads, so the next run would read its results. Choose a "
            "--run_dir beside it."
        )


def _read(config: MergeConfig) -> Iterator[Path]:
    """Yield the folders of base, experts and rows."""
    sources = [config.base_model, *(model.model for model in config.models), *_rows(config)]
    yield from (Path(source).expanduser().resolve() for source in sources if is_folder(Path(source).expanduser()))


def _rows(config: MergeConfig) -> Iterable[str]:
    for model in config.models:
        for data in (model.calibration, model.evaluation):
            path = getattr(data, "path", data)
            if isinstance(path, str):
                yield path


def check_space(config: MergeConfig, experts: Experts, run: RunDirectory) -> None:
    """Check, before learning, that the disk has space for the checkpoint and for stored centre and task vectors.

    Raises:
        ConfigError: The disk has too little free space.
    """
    size = sum(shape.numel() * dtype.itemsize for shape, dtype in experts.base.headers.values())
    shapes = {name: experts.base.shape(name) for name in experts.shared}
    if config.centre is not None:
        others = config.chosen_centre.contestants if isinstance(config.chosen_centre, CentreChoice) else ()
        size += resident_bytes(shapes, 1 + len(others))
    size += resident_bytes(shapes, sum(model != "base" for model in config.models_beside.values()))
    if config.task_vectors is not None:
        size += resident_bytes(shapes, len(config.task_vectors.experts(tuple(experts.tasks))))
    if any(transform.fisher for transform in config.transforms.values()):  # stored until they are computed
        size += resident_bytes(shapes, len(experts.tasks))
    place = next(folder for folder in (run.path.absolute(), *run.path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < 1.2 * size:
        raise ConfigError(
            f"{run.path}: the disk is full: expected {1.2 * size / 1e6:.0f} MB of free space at {place}, found "
            f"{free / 1e6:.0f} MB. Delete files, or choose a run_dir on another disk."
        )
