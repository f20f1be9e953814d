"""Protect finished runs: do not relearn; keep files that the user added to an export."""

import filecmp
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, cast

from adamerge.learning.checkpoints import newest
from adamerge.learning.trainer import WholeCheckpoints
from adamerge.runs.flat_settings import flat_settings
from adamerge.runs.inputs import read_recipe
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.atomic_files import remove_whole
from adamerge.storage.digest import digest_of_path
from adamerge.storage.kept import is_intact
from adamerge.storage.own_files import EVERY, DamagedFileError, own_file, own_json
from adamerge.types import ConfigError

_STEPS, _TIME = "trainer.max_steps", "trainer.max_time"
"""Settings with which a run goes on, if they are larger than before."""

Settings: TypeAlias = Mapping[str, object]


class RunFinishedError(ConfigError):
    """There is nothing to resume: the run is finished, and was left as it is."""


def check_unfinished(run: RunDirectory, resolved: str, tell: Callable[[str], object]) -> None:
    """Leave a finished run alone, unless more steps are asked for, or something in it is damaged and is made anew.

    Steps that were learned are not taken back: fewer of them are another run, and the recipe would name settings that
    nobody learned with.

    Args:
        run: Run directory, with the same settings.
        resolved: Configuration as YAML.
        tell: Called with a line of text if its recipe is damaged, or what its merge is made from.

    Raises:
        RunFinishedError: The run is finished.
        ConfigError: It has learned for more steps, or longer, than is asked for; nothing is changed.
    """
    now = flat_settings(resolved)
    _check_finished(run, now, tell)
    if (done := _steps_of_checkpoints(run)) > cast(int, now[_STEPS]):
        raise ConfigError(
            f"{run.path}: {_STEPS}: expected at least the {done} steps that this run has learned, found {now[_STEPS]}; "
            "nothing in it was changed. Resume it with as many or more, or start a run in another --run_dir."
        )


def _check_finished(run: RunDirectory, now: Settings, tell: Callable[[str], object]) -> None:
    if not os.path.lexists(run.recipe):
        return
    try:
        recipe = read_recipe(run.recipe)
        with own_file(run.recipe, "the recipe of a finished run", ""):
            then = flat_settings(recipe["config"])
    except DamagedFileError as error:
        tell(f"note: {error} The run goes on, and writes it again.")
        return
    if damaged := [path for path in run.merged_from if not is_intact(path)]:
        tell(f"note: {damaged[0]}: expected what the run made, but it is damaged. The run goes on, and makes it anew.")
        return
    longer = f"a larger --{_STEPS} than {then.get(_STEPS)}"
    if all(now.get(key) == then.get(key) for key in (_STEPS, _TIME)):
        raise RunFinishedError(
            f"{run.path}: this run is finished, and nothing in it was changed. To write its checkpoint again: adamerge "
            f"export {run.path} FOLDER. To learn for longer: {longer}."
        )
    if not _goes_on(then, now, run):
        raise ConfigError(
            f"{run.path}: this run is finished, with {_STEPS} {then.get(_STEPS)} and {_TIME} {then.get(_TIME)}: "
            f"expected {longer}, and no shorter {_TIME}; found {now[_STEPS]} and {now.get(_TIME)}. Nothing in it was "
            "changed. Start a run in another --run_dir for fewer steps."
        )


def _goes_on(then: Settings, now: Settings, run: RunDirectory) -> bool:
    """Return whether a finished run has steps left: more are asked for, or more time after it ran out of it."""
    before, after = cast(int, then.get(_STEPS, 0)), cast(int, now[_STEPS])
    if _seconds(now) < _seconds(then):
        return False
    return after > before or (after == before and _seconds(now) > _seconds(then) and _steps_done(run) < before)


def _seconds(settings: Settings) -> float:
    """Return the largest time for learning; without end if none is set.

    Example:
        >>> _seconds({"trainer.max_time": "00:01:00:05"}), _seconds({})
        (3605.0, inf)
    """
    limit = settings.get(_TIME)
    if limit is None:
        return math.inf
    parts = [int(part) for part in str(limit).split(":")]
    return float(sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True)))


def _steps_done(run: RunDirectory) -> int:
    """Return the steps that a finished run has learned, by its measurements or its checkpoints."""
    form = {"history": list, EVERY: object}
    found = own_json(run.metrics, "the measurements of a run", "", form) if run.metrics.exists() else {}
    history = cast(list[Mapping[str, float]], found.get("history", []))
    return max(int(history[-1]["step"]) if history else 0, _steps_of_checkpoints(run))


def _steps_of_checkpoints(run: RunDirectory) -> int:
    """Return the steps after which the last checkpoint was written, of both stages where there are two."""
    folders = [run.checkpoints, *(folder for folder in sorted(run.checkpoints.glob("*")) if folder.is_dir())]
    files = [file for file in map(newest, folders) if file]
    return sum(cast(int, WholeCheckpoints().load_checkpoint(file)["global_step"]) for file in files)


def put_aside(folder: Path) -> Path | None:
    """Rename a folder, if it exists, to the first free name; returns its new path."""
    if not folder.exists():
        return None
    number = next(n for n in range(1, 10**9) if not folder.with_name(f"{folder.name}_{n}").exists())
    return folder.rename(folder.with_name(f"{folder.name}_{number}"))


def files_of_export(run: RunDirectory) -> Mapping[str, str]:
    """Return SHA-256 by path of the files that a finished run exported; empty where it does not say, or is damaged."""
    if not run.recipe.exists():
        return {}
    try:
        return cast(Mapping[str, Mapping[str, str]], read_recipe(run.recipe)).get("files", {})
    except DamagedFileError:
        return {}


def drop_former(former: Path | None, new: Path, known: Mapping[str, str]) -> str | None:
    """Remove a former export that holds nothing but what the new one replaces; otherwise say where it is now.

    Args:
        former: Folder of the former export, put aside.
        new: The new export.
        known: SHA-256 by path of what the run itself wrote there.
    """
    if former is None:
        return None
    own = [file.relative_to(former) for file in sorted(former.rglob("*")) if not file.is_dir()]
    others = [
        str(file)
        for file in own
        if not _same(former / file, known.get(file.as_posix()))
        and not _replaced(former / file, new / file, recorded=file.as_posix() in known)
    ]
    if others:
        return (
            f"note: {new.name}/ existed, with files that are not of this export ({', '.join(others[:5])}); the former "
            f"folder is {former} now."
        )
    remove_whole(former)
    return None


def _replaced(former: Path, new: Path, *, recorded: bool) -> bool:
    """Return whether a file is in the new export too: by content; weights of which nothing is recorded, by name."""
    if not new.is_file():
        return False
    return (former.suffix == ".safetensors" and not recorded) or filecmp.cmp(former, new, shallow=False)


def _same(file: Path, digest: str | None) -> bool:
    """Return whether a file is as the run wrote it: a model card, which the new export has with other numbers."""
    return digest is not None and digest_of_path(file) == digest
