"""Whether a run may begin in a directory, or go on there: the settings that it began with."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from adamerge.runs.config import MergeConfig
from adamerge.runs.flat_settings import flat, flat_settings
from adamerge.runs.layers import nested
from adamerge.runs.model_config import ModelConfig
from adamerge.runs.read_config import merge_config, read_config
from adamerge.runs.read_yaml import read_yaml_file
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.save_config import settings
from adamerge.runs.sources import other_place
from adamerge.storage.exclusive import LOCK
from adamerge.storage.file_names import at_home
from adamerge.storage.own_files import own_file
from adamerge.types import ConfigError

MAY_DIFFER = {"run_dir", "trainer.max_steps", "trainer.max_time", "trainer.enable_progress_bar"} | {
    f"trainer.{key}" for key in ("devices", "num_nodes", "strategy")
}
"""Settings that may differ when a run is resumed; not trainer.max_steps if a cosine schedule depends on it."""


def may_differ(key: str) -> bool:
    """Return whether a setting may differ when a run is resumed.

    Example:
        >>> may_differ("run_dir"), may_differ("trainer.logger.class_path"), may_differ("method")
        (True, True, False)
    """
    return key in MAY_DIFFER or key.startswith("trainer.logger")


DECIDING = ("method", "task_vectors", "centre", "grouping", "chunks", "parameters")
"""Settings that decide what the coefficients of a finished run are multiplied with."""


def check_run_dir(run: RunDirectory, resolved: str, resume: bool, *, allow_code: bool = False) -> None:
    """Check that a run directory is new, or that its run is resumed with the same configuration.

    Args:
        run: Run directory.
        resolved: Configuration as YAML.
        resume: Whether to resume the run in the directory.
        allow_code: Whether the run's configuration may name code.

    Raises:
        ConfigError: The directory exists; or, to resume, it has no run, or a run with another configuration.
    """
    run_dir, former = run.path, run.config
    if not resume:
        if os.path.lexists(run_dir) and (not run_dir.is_dir() or not _is_empty(run_dir)):
            raise ConfigError(
                f"{run_dir}: already exists. Choose another --run_dir, or resume its run with --ckpt_path last."
            )
        return
    if not os.path.lexists(former):
        raise ConfigError(
            f"{run_dir}: there is no run to resume (no {former.name} in it). Check run_dir (a run that was moved is "
            f"resumed by its own {former.name}), or start without --ckpt_path."
        )
    for folder in (run.checkpoints, run.logs):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder}: expected a folder, but a file lies there. Move the file away.")
    now = flat_settings(resolved)
    then, now = _named(_as_begun(former, now, allow_code)), _named(now)
    fixed = {"trainer.max_steps"} if _decays_until_max_steps(now) else set[str]()
    differing = [
        f"{key} (was {then.get(key)}, is {now.get(key)})"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and (key in fixed or not may_differ(key))
        if not other_place(key, then.get(key), now.get(key))  # the hashes of what is there decide
    ]
    if differing:
        raise ConfigError(
            f"{run_dir}: the configuration differs from the run to be resumed: {'; '.join(differing[:5])}. "
            "Resume with the same settings, or start a new run in another run_dir."
        )


def _named(settings: dict[str, object]) -> dict[str, object]:
    """Write the name of every task into flat settings, where it is that of the model's place."""
    models = {key.rpartition(".")[0] for key in settings if re.fullmatch(r"models\.\d+\.task", key)}
    own = {at: [cast(str | None, settings.get(f"{at}.{key}")) for key in ("model", "task", "adapter")] for at in models}
    names = {at: ModelConfig(str(model), task, adapter=adapter).name for at, (model, task, adapter) in own.items()}
    return {**settings, **{f"{at}.task": name for at, name in names.items()}}


def _decays_until_max_steps(flat_settings: Mapping[str, object]) -> bool:
    """Return whether steps beyond trainer.max_steps would have had another learning rate before it."""
    named = flat_settings.get("lr_scheduler.class_path", flat_settings.get("lr_scheduler"))
    return str(named).rpartition(".")[2] in ("cosine", "StableDecay")


def _is_empty(folder: Path) -> bool:
    """Return whether nothing in a folder says anything of a run: a lock, or what a killed process was writing."""
    return all(file.name == LOCK or file.name.endswith(".partial") for file in folder.glob("*"))


def _as_begun(former: Path, now: dict[str, object], allow_code: bool) -> dict[str, object]:
    """Read the settings that a run began with: those on record, even if the file was changed since."""
    what, way = "the configuration that the run began with", "Restore it, or start a new run in another run_dir."
    with own_file(former, what, way):
        saved = _content(former, way).get("saved")
        if not isinstance(saved, dict):  # version 0.1.0
            return flat(settings(read_config(former, lambda note: None, allow_code=allow_code)))
        begun = flat(saved)
        if begun == now:
            return begun
        return flat(settings(merge_config(saved, lambda note: None, allow_code=allow_code, use="keep")))


def _content(former: Path, way: str) -> Mapping[str, object]:
    """Read keys and values of a run's configuration; an error says what to do about it, too."""
    try:
        return read_yaml_file(former).content
    except ConfigError as error:
        raise ConfigError(f"{error} {way}") from error


def check_unedited(run: RunDirectory) -> None:
    """Check that the configuration of a finished run still says what its coefficients were learned for.

    Raises:
        ConfigError: A setting that decides what is merged was changed after the run; names it.
    """
    content = nested(read_yaml_file(run.config)).content
    saved = content.get("saved")
    changed = [key for key in DECIDING if isinstance(saved, dict) and content.get(key) != saved.get(key)]
    if changed:
        raise ConfigError(
            f"{run.config}: {', '.join(changed)} changed after the run, but its coefficients belong to the former "
            f"settings. Restore those (they are recorded under saved), or start a new run: adamerge fit --config "
            f"{run.config} --run_dir …"
        )


def where_it_lies(config: MergeConfig, files: Iterable[str], tell: Callable[[str], object]) -> MergeConfig:
    """Resume a run where its own configuration lies now, if the directory was moved or copied.

    Args:
        config: Configuration.
        files: Files that it was read from.
        tell: Called with a line of text if the run directory is another one than its configuration says.
    """
    places = [RunDirectory(_real(at_home(file)).absolute().parent) for file in files]
    own = [place for place in places if place.config.exists() and place.inputs.exists()]
    former = RunDirectory(at_home(config.run_dir))
    if not own or (former.config.exists() and not _is_copy(own[-1], former)):
        return config
    how = "copied" if former.config.exists() else "moved"
    tell(f"note: the run directory was {how} from {former.path}; the run is resumed in {own[-1].path}.")
    return replace(config, run_dir=str(own[-1].path))


def _real(file: Path) -> Path:
    """Follow a file that is a link, but no folder that is one."""
    return file.resolve() if file.is_symlink() else file


def _is_copy(run: RunDirectory, former: RunDirectory) -> bool:
    """Return whether a run's own configuration names another directory, which is there too."""
    named = read_yaml_file(run.config).content.get("run_dir")
    return named == str(former.path) and not run.config.samefile(former.config)
