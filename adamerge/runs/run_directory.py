"""File names of a run, and its directory used by one process alone."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from adamerge.merging.coefficients import COEFFICIENTS
from adamerge.storage.exclusive import used_alone
from adamerge.storage.kept import Keeper
from adamerge.storage.partial_paths import remove_leftovers_in


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
    def merged_from(self) -> list[Path]:
        """What of the run its merge is made from, besides models and coefficients."""
        return [self.centre, self.task_vectors, *sorted(self.beside.glob("*.safetensors"))]

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
        """Folder of the first stage's result, if there are several; those of others lie beside it."""
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
