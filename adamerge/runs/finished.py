"""A finished run is left alone, and a former export is never lost with what a user put there."""

import filecmp
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from adamerge.runs.flat_settings import flat_settings
from adamerge.runs.inputs import read_recipe
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.atomic_files import remove_whole
from adamerge.storage.digest import digest_of_path
from adamerge.storage.own_files import DamagedFileError, own_file
from adamerge.types import ConfigError

_LONGER = ("trainer.max_steps", "trainer.max_time")
"""Settings with which a finished run goes on."""


class RunFinishedError(ConfigError):
    """There is nothing to resume: the run is finished, and was left as it is."""


def check_unfinished(run: RunDirectory, resolved: str, tell: Callable[[str], object]) -> None:
    """Leave a finished run alone, unless it shall go on for longer, or its recipe is damaged and is written again.

    Args:
        run: Run directory, with the same settings.
        resolved: Configuration as YAML.
        tell: Called with a line of text if the recipe is damaged.

    Raises:
        RunFinishedError: The run is finished.
    """
    if not os.path.lexists(run.recipe):
        return
    now = flat_settings(resolved)
    try:
        recipe = read_recipe(run.recipe)
        with own_file(run.recipe, "the recipe of a finished run", ""):
            then = flat_settings(recipe["config"])
    except DamagedFileError as error:
        tell(f"note: {error} The run goes on, and writes it again.")
        return
    if all(now.get(key) == then.get(key) for key in _LONGER):
        raise RunFinishedError(
            f"{run.path}: this run is finished, and nothing in it was changed. To write its checkpoint again: adamerge "
            f"export {run.path} FOLDER. To learn for longer: a larger --trainer.max_steps than "
            f"{then.get('trainer.max_steps')}."
        )


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
