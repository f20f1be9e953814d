"""Whether a run can write to its directory and its loggers to theirs, asked before anything is read."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from adamerge.learning.loggers import options_of_loggers, places_within
from adamerge.runs.config import MergeConfig
from adamerge.storage.file_names import at_home
from adamerge.storage.regular_files import is_folder, nearest
from adamerge.types import ConfigError, quoted

_LONGEST_NAME = 255
"""Bytes of the longest name of a file or folder on common file systems."""


def check_place(run_dir: Path, config: MergeConfig) -> None:
    """Check that a run directory and folders of loggers can be made or written, and that no run reads the first.

    Args:
        run_dir: Run directory.
        config: Configuration, for base, experts, rows and loggers.

    Raises:
        ConfigError: It lies below a file or inside a folder that is read, or nothing can be written there.
    """
    place = _writable(run_dir, "run_dir: ", "Choose another --run_dir")
    inside = next((folder for folder in _read(config) if place.is_relative_to(folder)), None)
    if inside is not None:
        raise ConfigError(
            f"{run_dir}: lies inside {inside}, which the run reads, so the next run would read its results. Choose a "
            "--run_dir beside it."
        )
    for options in options_of_loggers(config.trainer.logger):
        if isinstance(root := options.get("save_dir"), str | Path) and "://" not in str(root):
            folder = Path(root, *places_within(options))
            place = _writable(folder, "trainer.logger: ", "Choose another save_dir, name or version")
            _check_space(folder, place)


def _writable(folder: Path, key: str, way: str) -> Path:
    """Return where a folder is, if it is there or can be made.

    Raises:
        ConfigError: It lies below a file, or nothing can be written there.
    """
    try:
        place = folder.resolve()
        near = nearest(place)
        long = [part for part in place.relative_to(near).parts if len(os.fsencode(part)) > _LONGEST_NAME]
        if long:
            raise ValueError(f"a name is longer than {_LONGEST_NAME} bytes")
    except (OSError, ValueError, RuntimeError, StopIteration) as error:
        raise ConfigError(f"{key}{quoted(str(folder))}: cannot be a folder ({error}). {way}.") from error
    if not is_folder(near):
        raise ConfigError(f"{key}{folder}: {near} is no folder, so nothing can be written there. {way}.")
    if not os.access(near, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}{folder}: no permission to write to {near}. {way}, or ask its owner.")
    return place


def _check_space(folder: Path, place: Path) -> None:
    near = nearest(place)
    if not shutil.disk_usage(near).free:
        raise ConfigError(
            f"trainer.logger: {folder}: expected free space at {near}, found none. Choose another save_dir."
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
