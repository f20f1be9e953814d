"""Commands: read the command line, run a command, and convert errors to messages and exit codes."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from adamerge.printable import print_anything

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
    "check": "List every problem with a configuration; reads file headers only, and writes nothing.",
    "export": "Export the merged checkpoint of a finished run to another folder or in another dtype.",
    "evaluate": "Measure a finished run on its evaluation rows again.",
    "inspect": "Show what an adapter or fine-tuned checkpoint changes, and how far it moves each block.",
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
    """

    ckpt_path: Literal["last"] | None = None
    print_config: bool = False
    allow_code: bool = False


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
        allow_code: Let the run's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
    """

    run: str
    out: str
    out_dtype: DType | None = None
    rounding: Literal["nearest", "stochastic"] | None = None
    adapter: bool | None = None
    max_rank: int | None = None
    max_shard_size: int | str | None = None
    allow_code: bool = False


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
class Inspect:
    """Options of `inspect`.

    Attributes:
        expert: Directory or hub id of an adapter, or of a fine-tuned checkpoint.
        base: Directory or hub id of its base; by default the one that the adapter names.
        allow_pickle: Read pickled weights (.bin), with torch's weights_only.
        allow_code: Run Python code beside weights.
    """

    expert: str
    base: str | None = None
    allow_pickle: bool = False
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
    "inspect": Inspect,
    "demo": Demo,
}
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
    if command == "--version":
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
            from adamerge.runs.open_run import chosen, export_again

            run, out = Path(options.run).expanduser(), Path(options.out).expanduser()
            config = parse_file(run / "config.yaml", allow_code=options.allow_code)
            config = chosen(config, options.adapter, options.max_rank, options.max_shard_size)
            export_again(config, run, out, options.out_dtype, options.rounding, console)
        case Evaluate(run, allow_code):
            from adamerge.runs.open_run import evaluate_again

            place = Path(run).expanduser()
            evaluate_again(parse_file(place / "config.yaml", allow_code=allow_code), place, console)
        case Inspect(expert, base, allow_pickle, allow_code):
            from adamerge.runs.inspect import inspect

            inspect(expert, base, console, allow_pickle=allow_pickle, trust_remote_code=allow_code)
        case Demo(folder):
            from adamerge.demo import demo

            return main(["fit", *demo(Path(folder).expanduser(), console)])
        case _:
            raise AssertionError(options)
    return 0


def _merge(options: Fit | Check, layers: "Sequence[Document]", console: "Console") -> int:
    from adamerge.runs.read_config import merge_layers

    config = merge_layers(layers, allow_code=options.allow_code)
    if options.print_config:
        from adamerge.runs.save_config import as_yaml, settings

        print(as_yaml(settings(config), config.written), end="")
        return 0
    if isinstance(options, Fit):
        return _fit(config, options, console)
    from adamerge.runs.check import check

    return BAD_INPUT if check(config, console, deep=options.deep) else 0


def _fit(config: "MergeConfig", options: Fit, console: "Console") -> int:
    from adamerge.runs.finished import RunFinishedError
    from adamerge.runs.fit import fit
    from adamerge.runs.save_config import resolved

    try:
        done = fit(config, resolved(config), resume=options.ckpt_path is not None, console=console)
    except RunFinishedError as finished:
        console.print(str(finished), markup=False, highlight=False, soft_wrap=True)
        return 0
    except KeyboardInterrupt:
        done = None
    if done:
        return 0
    former = Path(config.run_dir).expanduser() / "config.yaml"
    command = shlex.join(["adamerge", "fit", "--config", str(former), "--ckpt_path", "last"])
    _print_error(f"interrupted. Resume with: {command}" if former.exists() else "interrupted. Nothing was written.")
    return INTERRUPTED
