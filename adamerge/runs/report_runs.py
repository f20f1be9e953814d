"""Read finished runs, and write the report on them: one page, and the same as Markdown."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from adamerge.merging.coefficients import load_coefficients
from adamerge.results.narrow_tables import print_grid
from adamerge.results.report_page import report_on
from adamerge.results.seen_run import SeenRun
from adamerge.results.side_by_side import compared
from adamerge.runs.flat_settings import flat_settings
from adamerge.runs.run_directory import RunDirectory, use_run
from adamerge.storage.atomic_files import write_named
from adamerge.storage.own_files import EVERY, DamagedFileError, own_json
from adamerge.storage.regular_files import reason_of
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
            finish = f", or finish the run: adamerge fit --config {run.config} --ckpt_path last"
            raise ConfigError(
                f"{folder}: expected the directory of a finished run, but it has no {file.name}. Correct the path"
                f"{finish if run.config.is_file() else '.'}"
            )
    recipe = _read(run.recipe)
    settings = flat_settings(str(recipe.get("config", "")))
    table = load_coefficients(run.coefficients)
    race = _read(run.race) if run.race.is_file() else {}
    return SeenRun(
        name or Path(os.path.abspath(folder)).name, folder, settings, _read(run.metrics), recipe, table, race=race
    )


def _read(file: Path) -> Mapping[str, Any]:
    return own_json(file, "JSON", "Restore it.", {EVERY: object})


def write_report(runs: Sequence[Path], page: Path) -> None:
    """Write the report on one run, or on several side by side.

    Args:
        runs: Run directories.
        page: The HTML file; the same as Markdown is written beside it, with the ending .md.

    Raises:
        ConfigError: A run is not finished.
    """
    found = report_on(_read_all(runs))
    write_named(page, found.html)
    write_named(page.with_suffix(".md"), found.markdown)


def short_names(runs: Sequence[Path]) -> list[str]:
    """Name runs by the fewest last parts of their paths that tell them apart.

    Example:
        >>> short_names([Path("/a/x/run"), Path("/a/y/run")]), short_names([Path("/a/x/merged/..")])
        (['x/run', 'y/run'], ['x'])
    """
    paths = [Path(os.path.abspath(run)).parts for run in runs]
    for count in range(1, max(map(len, paths))):
        names = ["/".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def report_command(runs: Sequence[Path], out: Path | None, console: Console) -> None:
    """Write a report and print its paths.

    Args:
        runs: Run directories.
        out: The HTML file, or a folder for it; by default in the run directory, and for several runs comparison.html
            here.
        console: Prints the paths.

    Raises:
        ConfigError: A run is not finished, or the file exists and is no report of a run in its directory, or another
            process uses the run directory that it is written to.
    """
    own = len(runs) == 1 and out is None
    page = RunDirectory(runs[0]).report if own else _page(out or Path("comparison.html"), several=len(runs) > 1)
    there = [file for file in (page, page.with_suffix(".md")) if file.exists() and not own]
    if there:
        raise ConfigError(f"{there[0]}: exists already; choose another file with --out.")
    with use_run(RunDirectory(runs[0]), "adamerge report", console) if own else nullcontext(), _as_written(runs):
        write_report(runs, page)
    for file in (page, page.with_suffix(".md")):
        _print(console, str(file))


@contextmanager
def _as_written(runs: Sequence[Path]) -> Generator[None]:
    """Say which run has files of another form, if what is made of them fails.

    Raises:
        DamagedFileError: Names the run, its files, and what failed.
    """
    try:
        yield
    except (ConfigError, OSError, MemoryError):
        raise
    except Exception as error:  # values of other types fail anywhere
        run = RunDirectory(next((run for run in runs if not _is_seen(run)), runs[0]))
        files = ", ".join(file.name for file in (run.metrics, run.recipe, run.race) if file.is_file())
        raise DamagedFileError(
            f"{run.path}: expected {files} as a run writes them, but in one of them a value is of another form "
            f"({reason_of(error)}). Restore it, or start a new run in another run_dir."
        ) from error


def _is_seen(run: Path) -> bool:
    """Return whether a report on one run can be made of its files."""
    try:
        report_on([read_run(run)])
    except Exception:
        return False
    return True


def _page(out: Path, *, several: bool) -> Path:
    """Return the HTML file that is meant: beside the Markdown that was named, or in the folder that was."""
    if out.is_dir():
        return out / ("comparison.html" if several else "report.html")
    out = out.with_suffix("") if out.suffix == ".md" else out
    return out if out.suffix == ".html" else out.with_name(f"{out.name}.html")


def compare_command(runs: Sequence[Path], console: Console) -> None:
    """Print a comparison of several runs.

    Args:
        runs: At least two run directories.
        console: Prints the tables.

    Raises:
        ConfigError: A run is not finished.
    """
    with _as_written(runs):
        section = compared(_read_all(runs))
    for line in section.text:
        _print(console, line)
    for grid in section.grids:
        print_grid(grid, console)


def _read_all(runs: Sequence[Path]) -> list[SeenRun]:
    """Read runs that differ.

    Raises:
        ConfigError: One is named twice, or is not finished.
    """
    places = [run.resolve() for run in runs]
    if twice := dict.fromkeys(str(run) for run, place in zip(runs, places, strict=True) if places.count(place) > 1):
        raise ConfigError(f"runs: expected different runs, found one run twice ({', '.join(twice)}).")
    return [read_run(run, name) for run, name in zip(runs, short_names(runs), strict=True)]


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
