"""The check whether a run's disk has space for what it writes."""

import shutil

from adamerge.calibration.race import CentreChoice
from adamerge.experts.experts import Experts
from adamerge.merging.resident_task_vectors import resident_bytes
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.export import SHARD_BYTES
from adamerge.runs.config import MergeConfig
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.partial_paths import partials_of
from adamerge.storage.regular_files import nearest
from adamerge.types import ConfigError


def check_space(config: MergeConfig, experts: Experts, run: RunDirectory) -> None:
    """Check, before learning, that the disk has space for the checkpoint and for stored centre and task vectors.

    What an interrupted run has of these already counts: it is kept, or removed before it is written again.

    Raises:
        ConfigError: The disk has too little free space.
    """
    size = sum(shape.numel() * dtype.itemsize for shape, dtype in experts.base.headers.values())
    if not adapter_of(config.export) and size <= (config.shard_bytes or SHARD_BYTES):  # these folders share no file
        size += size * sum(bool(expert.head) for expert in experts.tasks.values())
    shapes = {name: experts.base.shape(name) for name in experts.shared}
    if config.centre is not None:
        others = config.chosen_centre.contestants if isinstance(config.chosen_centre, CentreChoice) else ()
        size += resident_bytes(shapes, 1 + len(others))
    size += resident_bytes(shapes, sum(model != "base" for model in config.models_beside.values()))
    if config.task_vectors is not None:
        size += resident_bytes(shapes, len(config.task_vectors.experts(tuple(experts.tasks))))
    if any(transform.fisher for transform in config.transforms.values()):  # stored until they are computed
        size += resident_bytes(shapes, len(experts.tasks))
    place = nearest(run.path.absolute())
    free, needed = shutil.disk_usage(place).free, max(0, 1.2 * size - _bytes_there(run))
    if free < needed:
        raise ConfigError(
            f"{run.path}: the disk is full: expected {_mb(needed)} of free space at {place}, found {_mb(free)}. Delete "
            "files, or choose a run_dir on another disk."
        )


def _bytes_there(run: RunDirectory) -> int:
    """Return the size of what an interrupted run has stored, and of what it has exported so far."""
    begun = partials_of(run.merged) if run.path.is_dir() else []
    places = [run.centre, run.contestants, run.beside, run.task_vectors, run.information, *begun]
    files = {file for place in places for file in (place, *place.rglob("*")) if file.is_file()}
    return sum({(stat := file.stat()).st_ino: stat.st_size for file in files}.values())


def _mb(size: float) -> str:
    return f"{size / 1e6:.{0 if size >= 1e7 else 3}f} MB"
