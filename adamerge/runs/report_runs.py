"""Read finished runs, and write the report on them: one page, and the same as Markdown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adamerge.merging.coefficients import load_coefficients
from adamerge.results.report_page import report_on
from adamerge.results.seen_run import SeenRun
from adamerge.runs.run_directory import RunDirectory, flat_settings
from adamerge.storage.atomic_files import write_text
from adamerge.types import ConfigError


def read_run(folder: Path, name: str | None = None) -> SeenRun:
    """Read a finished run from its directory; no weights are read.

    Args:
        folder: Run directory.
        name: Name of the run in the report; by default that of the directory.

    Raises:
        ConfigError: The run is not finished, or a file of it is damaged.
    """
    run = RunDirectory(folder)
    for file in (run.coefficients, run.metrics, run.recipe, run.config):
        if not file.is_file():
            raise ConfigError(
                f"{folder}: expected the directory of a finished run, but it has no {file.name}. Correct the path, or "
                f"finish the run: adamerge fit --config {run.config} --ckpt_path last"
            )
    recipe = _read(run.recipe)
    settings = flat_settings(str(recipe.get("config", "")))
    table = load_coefficients(run.coefficients)
    return SeenRun(name or folder.absolute().name, folder, settings, _read(run.metrics), recipe, table)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: expected JSON, but the file is damaged ({error}). Restore it.") from error
    return found


def write_report(runs: Sequence[Path], page: Path) -> None:
    """Write the report on one run, or on several side by side.

    Args:
        runs: Run directories.
        page: The HTML file; the same as Markdown is written beside it, with the ending .md.

    Raises:
        ConfigError: A run is not finished.
    """
    found = report_on([read_run(run, name) for run, name in zip(runs, short_names(runs), strict=True)])
    write_text(page, found.html)
    write_text(page.with_suffix(".md"), found.markdown)


def short_names(runs: Sequence[Path]) -> list[str]:
    """Name runs by the fewest last parts of their paths that tell them apart.

    Example:
        >>> short_names([Path("/a/x/run"), Path("/a/y/run")]), short_names([Path("/a/x")])
        (['x/run', 'y/run'], ['x'])
    """
    paths = [run.absolute().parts for run in runs]
    for count in range(1, max(map(len, paths))):
        names = ["/".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]
