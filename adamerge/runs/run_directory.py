"""File names of a run, and the checks whether a new or resumed run may write to its directory."""

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from adamerge.merging.coefficients import COEFFICIENTS
from adamerge.runs.config import MergeConfig
from adamerge.runs.flat_settings import flat, flat_settings
from adamerge.runs.layers import nested
from adamerge.runs.read_config import merge_config, read_config
from adamerge.runs.read_yaml import read_yaml_file
from adamerge.runs.save_config import settings
from adamerge.storage.exclusive import LOCK, used_alone
from adamerge.storage.kept import Keeper
from adamerge.storage.own_files import own_file
from adamerge.storage.partial_paths import remove_leftovers_in
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


@dataclass(frozen=True)
class RunDirectory:
    """Paths of the files and folders of a run.

    Attributes:
        path: Run directory.

    Example:
        >>> print(RunDirectory(Path("run")).coefficients)
        run/coefficients.safetensors
    """

    path: Path

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.path / "config.yaml"

    @property
    def inputs(self) -> Path:
        """Hashes of the run's inputs, written when the run begins."""
        return self.path / "inputs.json"

    @property
    def answers(self) -> Path:
        """Folder of the experts' pseudo-answers."""
        return self.path / "answers"

    @property
    def information(self) -> Path:
        """Folder of the experts' Fisher information, while a transform needs it."""
        return self.path / "information"

    @property
    def centre(self) -> Path:
        """Centre, if it is not the base."""
        return self.path / "centre.safetensors"

    @property
    def race(self) -> Path:
        """Table of the race, if `centre: auto` chose the centre."""
        return self.path / "centre_race.json"

    @property
    def contestants(self) -> Path:
        """Folder of the merges that race, while they do."""
        return self.path / "centres"

    @property
    def beside(self) -> Path:
        """Folder of the merges that get a coefficient beside the experts."""
        return self.path / "beside"

    @property
    def task_vectors(self) -> Path:
        """Folder of transformed task vectors."""
        return self.path / "task_vectors"

    @property
    def start(self) -> Path:
        """Start coefficients, if they are computed in closed form."""
        return self.path / "start.safetensors"

    @property
    def targets(self) -> Path:
        """Folder of the experts' outputs on their rows."""
        return self.path / "targets"

    @property
    def logs(self) -> Path:
        """Folder of Lightning's loggers, if the configuration names some."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints that a run resumes from."""
        return self.path / "checkpoints"

    @property
    def first_stage(self) -> Path:
        """Folder of the first stage's result, if there are two stages."""
        return self.path / "first_stage"

    @property
    def coefficients(self) -> Path:
        """Learned coefficients."""
        return self.path / COEFFICIENTS

    @property
    def metrics(self) -> Path:
        """Scores, agreement, sizes and history of learning."""
        return self.path / "metrics.json"

    @property
    def recipe(self) -> Path:
        """Everything needed to repeat the merge; written last."""
        return self.path / "recipe.json"

    @property
    def heat_map(self) -> Path:
        """Picture of the coefficients."""
        return self.path / "coefficients.png"

    @property
    def curve(self) -> Path:
        """Picture of the history of learning."""
        return self.path / "learning.png"

    @property
    def report(self) -> Path:
        """Report as a page; the same as Markdown is beside it."""
        return self.path / "report.html"

    @property
    def harness(self) -> Path:
        """Script that measures base, experts and merge by lm-eval, of language models."""
        return self.path / "lm_eval.sh"

    @property
    def merged(self) -> Path:
        """Folder of the merged checkpoint."""
        return self.path / "merged"

    @property
    def results(self) -> tuple[Path, ...]:
        """Files of a finished run that are listed for the user."""
        return (
            self.coefficients,
            self.metrics,
            self.recipe,
            self.heat_map,
            self.curve,
            self.report,
            self.report.with_suffix(".md"),
        )


@contextmanager
def use_run(run: RunDirectory, what: str, console: Console) -> Generator[None]:
    """Use a run directory alone, without what killed processes were writing there.

    Args:
        run: Run directory.
        what: The command, for other processes to read.
        console: Prints what to know.

    Raises:
        ConfigError: Another process uses the directory.
    """
    with used_alone(run.path, what, partial(console.print, markup=False, highlight=False, soft_wrap=True)):
        remove_leftovers_in(run.path)
        yield


def keeper_for(console: Console, *, accept_unkeyed: bool = False) -> Keeper:
    """Build a keeper that prints when it replaces a stored result."""
    return Keeper(partial(console.print, markup=False, highlight=False, soft_wrap=True), accept_unkeyed)


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
            f"{run_dir}: there is no run to resume (no {former.name} in it). Check run_dir, or start without "
            "--ckpt_path."
        )
    now = flat_settings(resolved)
    then = _as_begun(former, now, allow_code)
    fixed = {"trainer.max_steps"} if _decays_until_max_steps(now) else set[str]()
    differing = [
        f"{key} (was {then.get(key)}, is {now.get(key)})"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and (key in fixed or not may_differ(key))
    ]
    if differing:
        raise ConfigError(
            f"{run_dir}: the configuration differs from the run to be resumed: {'; '.join(differing[:5])}. "
            "Resume with the same settings, or start a new run in another run_dir."
        )


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
        saved = read_yaml_file(former).content.get("saved")
        if not isinstance(saved, dict):  # version 0.1.0
            return flat(settings(read_config(former, lambda note: None, allow_code=allow_code)))
        begun = flat(saved)
        return begun if begun == now else flat(settings(merge_config(saved, lambda note: None, allow_code=allow_code)))


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
    """Resume a run where it lies now, if it is resumed by its own configuration and was moved or copied.

    Args:
        config: Configuration.
        files: Files that it was read from.
        tell: Called with a line of text if the run directory is another one than its configuration says.
    """
    places = [RunDirectory(Path(file).expanduser().absolute().parent) for file in files]
    own = [place for place in places if place.config.exists() and place.inputs.exists()]
    former = RunDirectory(Path(config.run_dir).expanduser())
    if not own or former.config.exists():
        return config
    tell(f"note: the run directory was moved from {former.path}; the run is resumed in {own[-1].path}.")
    return replace(config, run_dir=str(own[-1].path))
