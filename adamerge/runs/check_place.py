"""Whether a run can write to its directory, asked before anything is read."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from adamerge.runs.config import MergeConfig
from adamerge.storage.file_names import at_home
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
    yield from (at_home(source).resolve() for source in sources if is_folder(at_home(source)))


def _rows(config: MergeConfig) -> Iterable[str]:
    for model in config.pools:
        for data in (model.calibration, model.evaluation):
            path = getattr(data, "path", data)
            if isinstance(path, str):
                yield path
