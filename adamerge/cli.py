"""Commands: read the command line, run a command, and convert errors to messages and exit codes."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from adamerge import more_commands
from adamerge.printable import print_anything
from adamerge.storage.signals import as_ctrl_c

if TYPE_CHECKING:  # slow imports are in the commands that need them
    from rich.console import Console

    from adamerge.runs.config import MergeConfig
    from adamerge.runs.read_yaml import Document

BAD_INPUT = 2
INTERRUPTED = 130
SCREEN = 20
"""Largest number of lines of an error message."""

COMMANDS = {
    "fit": "Learn coefficients from unlabeled rows, export the merged checkpoint, and measure it.",
    "check": "List every problem with a configuration; reads no weights above 1 GiB, and writes nothing.",
    "export": "Export the merged checkpoint of a finished run to another folder or in another dtype.",
    "evaluate": "Measure a finished run on its evaluation rows again.",
    **more_commands.COMMANDS,
    "demo": "Train a small base model and four experts, merge them, and print the scores.",
}

DType: TypeAlias = Literal["float32", "float16", "bfloat16", "float64"]


@dataclass(frozen=True)
class Fit:
    """Options of `fit` besides the configuration's keys.

    Attributes:
        ckpt_path: last resumes the run in run_dir; by default a new run starts.
        print_config: Print the configuration with all defaults and exit.
        allow_code: Let the configuration name classes outside torch, Lightning and adamerge, and Python code beside
            weights; both run code.
        no_links: Copy the merged weights into the folder of every task with a head of its own. By default the folders
            share them by hard links, so that a file that is edited in place changes in all of them.
    """

    ckpt_path: Literal["last"] | None = None
    print_config: bool = False
    allow_code: bool = False
    no_links: bool = False


@dataclass(frozen=True)
class Check:
    """Options of `check` besides the configuration's keys.

    Attributes:
        deep: Read all weights too, to find NaNs, experts equal to the base, and experts of another base.
        print_config: Print the configuration with all defaults and exit.
        allow_code: Let the configuration name classes outside torch, Lightning and adamerge, and Python code beside
            weights; both run code.
    """

    deep: bool = False
    print_config: bool = False
    allow_code: bool = False


@dataclass(frozen=True)
class Export:
    """Options of `export`.

    Attributes:
        run: Run directory of a finished run.
        out: Folder to write the checkpoint to; must not exist.
        out_dtype: Number format of the checkpoint; by default as in the run.
        rounding: How its numbers are rounded; by default as in the run.
        adapter: Write one adapter over the base (LoRA), or with `--adapter false` a checkpoint; by default as in the
            run.
        max_rank: Largest rank of the adapter; the truncation error is printed.
        max_shard_size: Largest size of one file of a checkpoint, such as 2GB; by default as in the run.
        push_to_hub: Upload the export to this repository of the hub (ORG/NAME), as the user that `hf auth login` set.
        private: Make the repository private, if it is new.
        allow_code: Let the run's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
        no_links: Copy the merged weights into the folder of every task with a head of its own, instead of hard links.
    """

    run: str
    out: str
    out_dtype: DType | None = None
    rounding: Literal["nearest", "stochastic"] | None = None
    adapter: bool | None = None
    max_rank: int | None = None
    max_shard_size: int | str | None = None
    push_to_hub: str | None = None
    private: bool = False
    allow_code: bool = False
    no_links: bool = False


@dataclass(frozen=True)
class Evaluate:
    """Options of `evaluate`.

    Attributes:
        run: Run directory of a finished run.
        allow_code: Let the run's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
    """

    run: str
    allow_code: bool = False


@dataclass(frozen=True)
class Demo:
    """Options of `demo`.

    Attributes:
        folder: Folder to write models, data and the run to.
    """

    folder: str = "demo"


OPTIONS: dict[str, type] = {
    "fit": Fit,
    "check": Check,
    "export": Export,
    "evaluate": Evaluate,
    "demo": Demo,
}
OPTIONS |= more_commands.OPTIONS
MERGES = ("fit", "check")
"""Commands that take a configuration."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after `adamerge`; by default those of the command line.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    print_anything()
    try:
        with as_ctrl_c():
            return _run(words)
    except KeyboardInterrupt:
        _print_error("interrupted. No incomplete files remain.")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        _print_error(_message_of(error), lines_at_most=None if words[0] == "check" else SCREEN)
    return BAD_INPUT


def parse_file(path: Path, *, allow_code: bool = False) -> "MergeConfig":
    """Read a configuration from a YAML file; see `adamerge.runs.read_config.read_config`."""
    from adamerge.runs.read_config import read_config

    return read_config(path, allow_code=allow_code)


def _message_of(error: Exception) -> str:
    """Return the message of an error that users can fix; raise any other error again."""
    from adamerge.types import ConfigError, IncompatibleExpertsError

    if isinstance(error, ConfigError | IncompatibleExpertsError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:  # a full disk, a missing permission
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}. No incomplete files remain."
    raise error


def _print_error(message: str, lines_at_most: int | None = SCREEN) -> None:
    from rich.console import Console

    lines = message.splitlines()
    if lines_at_most and len(lines) > lines_at_most:
        left_out = len(lines) - lines_at_most + 1
        lines = [*lines[: lines_at_most - 1], f"… and {left_out} more; `adamerge check` lists all."]
    console = Console(stderr=True)
    console.print("[bold red]error:[/]", end=" ")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _run(arguments: list[str]) -> int:
    command, *rest = arguments
    if "--version" in arguments:
        import adamerge

        print(f"adamerge {adamerge.__version__}")
        return 0
    if any(word in ("-h", "--help") or _is_class_help(word) for word in arguments):
        from adamerge.command_help import show_help

        show_help(arguments, COMMANDS, OPTIONS, MERGES)
    from rich.console import Console

    from adamerge.command_line import check_command, read_arguments

    check_command(command, [*COMMANDS])
    options, layers = read_arguments(OPTIONS[command], rest, merges=command in MERGES)
    return _call(options, layers, Console())


def _is_class_help(word: str) -> bool:
    """Return whether a word requests the options of a class: --optimizer.help Adam."""
    return word.startswith("--") and word.partition("=")[0].endswith(".help")


def _call(options: object, layers: "Sequence[Document]", console: "Console") -> int:
    match options:
        case Fit() | Check():
            return _merge(options, layers, console)
        case Export():
            _export(options, console)
        case Evaluate(run, allow_code):
            from adamerge.runs.open_run import evaluate_again

            place = Path(run).expanduser()
            evaluate_again(parse_file(place / "config.yaml", allow_code=allow_code), place, console)
        case Demo(folder):
            from adamerge.demo import demo

            return main(["fit", *demo(Path(folder).expanduser(), console)])
        case _:
            more_commands.call(options, console)
    return 0


def _export(options: Export, console: "Console") -> None:
    from adamerge.runs.open_run import chosen, export_again
    from adamerge.runs.push import check_repository, push

    run, out = Path(options.run).expanduser(), Path(options.out).expanduser()
    former = parse_file(run / "config.yaml", allow_code=options.allow_code)
    config = chosen(former, options.adapter, options.max_rank, options.max_shard_size)
    if options.push_to_hub is not None:
        check_repository(options.push_to_hub)
    export_again(config, run, out, options.out_dtype, options.rounding, console, links=not options.no_links)
    if options.push_to_hub is not None:
        push(out, options.push_to_hub, private=options.private, console=console)


def _merge(options: Fit | Check, layers: "Sequence[Document]", console: "Console") -> int:
    from adamerge.runs.read_config import merge_layers
    from adamerge.types import ConfigError

    try:
        config = merge_layers(layers, allow_code=options.allow_code)
    except ConfigError as error:
        if isinstance(options, Check) and not options.print_config:
            from adamerge.runs.check import check_rest

            check_rest(layers, str(error), console, deep=options.deep, allow_code=options.allow_code)
        raise
    if options.print_config:
        from adamerge.runs.save_config import as_yaml, settings

        print(as_yaml(settings(config), config.written), end="")
        return 0
    if isinstance(options, Check):
        from adamerge.runs.check import check

        return BAD_INPUT if check(config, console, deep=options.deep) else 0
    return _fit(config, options, layers, console)


def _fit(config: "MergeConfig", options: Fit, layers: "Sequence[Document]", console: "Console") -> int:
    from adamerge.runs.finished import RunFinishedError
    from adamerge.runs.fit import fit
    from adamerge.runs.run_directory import where_it_lies
    from adamerge.runs.save_config import resolved

    resume, links = options.ckpt_path is not None, not options.no_links
    if resume and not any("run_dir" in layer.content for layer in layers if not layer.file):
        tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
        config = where_it_lies(config, [layer.file for layer in layers if layer.file], tell)
    try:
        if fit(config, resolved(config), resume=resume, console=console, links=links):
            return 0
    except RunFinishedError as finished:
        console.print(str(finished), markup=False, highlight=False, soft_wrap=True)
        return 0
    except KeyboardInterrupt:
        pass
    former = Path(config.run_dir).expanduser() / "config.yaml"
    way = f"Resume with: {shlex.join(['adamerge', 'fit', '--config', str(former), '--ckpt_path', 'last'])}"
    _print_error(f"interrupted. {way if former.exists() else 'Nothing was written.'}")
    return INTERRUPTED
