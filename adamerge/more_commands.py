"""Commands besides learning and exporting: a first configuration, methods, reports, replays, mergekit, inspection."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from adamerge.storage.file_names import at_home
from adamerge.types import ConfigError

if TYPE_CHECKING:  # slow imports are in the commands that need them
    from collections.abc import Sequence

    from rich.console import Console

    from adamerge.runs.read_yaml import Document

COMMANDS = {
    "init": "Write a commented configuration from a base and a list of experts, or from one of mergekit.",
    "methods": "List the methods: what each needs and learns, its source, and when to take it.",
    "report": "Write the report on a finished run, or on several side by side, as one page and as Markdown.",
    "compare": "Compare finished runs in the terminal: settings, scores, coefficients, costs.",
    "replay": "Redo the export of a run from its recipe, coefficients and sources alone, byte for byte.",
    "reproduce": "Redo the learning of a run from its recipe, and compare the coefficients.",
    "inspect": "Show what an adapter or fine-tuned checkpoint changes, and how far it moves each block.",
    "mergekit": "Write a learned merge as a configuration of mergekit that gives the same weights.",
}


@dataclass(frozen=True)
class Inspect:
    """Options of `inspect`.

    Attributes:
        expert: Directory or hub id of an adapter, or of a fine-tuned checkpoint.
        base: Directory or hub id of its base; by default the one that the adapter names, or the checkpoint below it.
        adapter: Directory or hub id of an adapter of that checkpoint.
        allow_pickle: Read pickled weights (.bin), with torch's weights_only.
        allow_code: Run Python code beside weights.
    """

    expert: str
    base: str | None = None
    adapter: str | None = None
    allow_pickle: bool = False
    allow_code: bool = False


@dataclass(frozen=True)
class Init:
    """Options of `init`.

    Attributes:
        models: The base, then the experts: directories or hub ids.
        from_mergekit: Configuration of mergekit to begin with: its models, weights and number format.
        out: File to write; must not exist.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("models",)

    models: list[str] = field(default_factory=list[str])
    from_mergekit: str | None = None
    out: str = "merge.yaml"


@dataclass(frozen=True)
class Methods:
    """Options of `methods`; there are none."""


@dataclass(frozen=True)
class Report:
    """Options of `report`.

    Attributes:
        runs: Run directories of finished runs.
        out: HTML file to write, beside which the same is written as Markdown; by default report.html in the run
            directory, and for several runs comparison.html here.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("runs",)

    runs: list[str]
    out: str | None = None


@dataclass(frozen=True)
class Compare:
    """Options of `compare`.

    Attributes:
        runs: Run directories of finished runs, at least two; the first is what the others are compared with.
    """

    POSITIONAL: ClassVar[tuple[str, ...]] = ("runs",)

    runs: list[str]

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if len(self.runs) < 2:
            raise ConfigError(f"runs: expected two or more run directories, found {len(self.runs)}.")


@dataclass(frozen=True)
class Replay:
    """Options of `replay`; places too, such as --models.0.model PLACE.

    Attributes:
        recipe: recipe.json of a finished run, or its run directory; the coefficients are beside it.
        out: Folder to write the checkpoint to; must not exist.
        allow_code: Let the recipe's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
    """

    recipe: str
    out: str
    allow_code: bool = False


@dataclass(frozen=True)
class Reproduce:
    """Options of `reproduce`; places too, such as --models.0.model PLACE.

    Attributes:
        recipe: recipe.json of a finished run, or its run directory; the coefficients are beside it.
        allow_code: Let the recipe's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
    """

    recipe: str
    allow_code: bool = False


@dataclass(frozen=True)
class Mergekit:
    """Options of `mergekit`.

    Attributes:
        run: Run directory of a finished run.
        file: YAML file to write; must not exist.
        allow_code: Let the run's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
    """

    run: str
    file: str
    allow_code: bool = False


OPTIONS: dict[str, type] = {
    "init": Init,
    "methods": Methods,
    "report": Report,
    "compare": Compare,
    "replay": Replay,
    "reproduce": Reproduce,
    "inspect": Inspect,
    "mergekit": Mergekit,
}


PLACES = ("replay", "reproduce")
"""Commands whose other options are places of models and rows, by the keys of a configuration."""


def call(options: object, places: "Sequence[Document]", console: "Console") -> None:
    """Run one of these commands.

    Args:
        options: Its options.
        places: Places of models and rows, of the commands that take them.
        console: Prints the result.
    """
    match options:
        case Init(models, mergekit, out):
            from adamerge.runs.init_config import init

            init(models, mergekit, at_home(out), console)
        case Methods():
            from adamerge.runs.methods import print_methods

            print_methods(console)
        case Report(runs, out):
            from adamerge.runs.report_runs import report_command

            report_command([at_home(run) for run in runs], at_home(out) if out else None, console)
        case Compare(runs):
            from adamerge.runs.report_runs import compare_command

            compare_command([at_home(run) for run in runs], console)
        case Replay(recipe, out, allow_code):
            from adamerge.runs.replay import replay

            replay(at_home(recipe), at_home(out), console, places, allow_code=allow_code)
        case Reproduce(recipe, allow_code):
            from adamerge.runs.replay import reproduce

            reproduce(at_home(recipe), console, places, allow_code=allow_code)
        case Inspect(expert, base, adapter, allow_pickle, allow_code):
            from adamerge.runs.inspect import inspect

            inspect(expert, base, console, adapter=adapter, allow_pickle=allow_pickle, trust_remote_code=allow_code)
        case Mergekit(run, file, allow_code):
            from adamerge.runs.to_mergekit import write_mergekit

            write_mergekit(at_home(run), at_home(file), console, allow_code=allow_code)
        case _:
            raise AssertionError(options)
