"""Commands; the only place where a word in YAML becomes a class (jsonargparse)."""

import os
import re
import shlex
import sys
import textwrap
import warnings
from argparse import SUPPRESS, Action, ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from rich.console import Console

from adamerge.types import ConfigError, IncompatibleExpertsError

if TYPE_CHECKING:  # what takes seconds to import is imported by the command that needs it
    from adamerge.runs.config import MergeConfig

BAD_INPUT = 2
INTERRUPTED = 130
SCREEN = 20
"""Lines of an error at most."""

COMMANDS = {
    "fit": "Learn coefficients from unlabeled rows, export the merged checkpoint, measure it.",
    "check": "List every problem with a configuration; reads file headers only, and writes nothing.",
    "export": "Write the merged checkpoint of a finished run once more, elsewhere or in another dtype.",
    "evaluate": "Measure a finished run once more on its evaluation rows.",
    "demo": "Train a small model and four experts here, merge them, show the gain.",
}

MINIMAL = """
A configuration needs no more than this; every other key has a default:

  base_model: models/base
  models:
    - {model: models/news, calibration: news.jsonl}
    - {model: models/trec, calibration: trec.jsonl, evaluation: trec_test.jsonl}

Save it as merge.yaml and run

  adamerge check --config merge.yaml
  adamerge fit --config merge.yaml --run_dir runs/first

Every key below can stand in the file or, after --config, on the command line.
Classes are written as Name or {class_path: Name, init_args: {key: value}}.
"""

DType: TypeAlias = Literal["float32", "float16", "bfloat16", "float64"]


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help that leaves the line breaks of descriptions alone, and breaks long lists of choices."""

    def _format_action_invocation(self, action: Action) -> str:
        text = re.sub(r",(?=\S)", ", ", super()._format_action_invocation(action))
        return textwrap.fill(text, 76, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])
    except (ConfigError, IncompatibleExpertsError) as error:
        _complain(str(error))
    except OSError as error:  # a full disk, a missing permission
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _complain(f"{place}{error.strerror}. Nothing half-written was left.")
    except KeyboardInterrupt:
        _complain("interrupted. Nothing half-written was left.")
        return INTERRUPTED
    return BAD_INPUT


def _complain(message: str) -> None:
    lines = message.splitlines()
    if len(lines) > SCREEN:
        lines = [*lines[: SCREEN - 1], f"… and {len(lines) - SCREEN + 1} more; `adamerge check` lists all."]
    console = Console(stderr=True)
    console.print("[bold red]error:[/]", end=" ")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _run(arguments: list[str]) -> int:
    with _plain_errors():
        chosen = _parser(arguments).parse_args(arguments)
    command = chosen.subcommand
    options = chosen[command]
    console = Console()
    match command:
        case "fit":
            return _fit(options, console)
        case "check":
            from adamerge.runs.check import check

            return BAD_INPUT if check(_config(options), console, deep="deep" in options) else 0
        case "export":
            from adamerge.runs.open_run import export_again

            run = Path(options.run)
            export_again(parse_file(run / "config.yaml"), run, Path(options.out), options.out_dtype, console)
        case "evaluate":
            from adamerge.runs.open_run import evaluate_again

            evaluate_again(parse_file(Path(options.run) / "config.yaml"), Path(options.run), console)
        case _:
            from adamerge.demo import demo

            return main(["fit", *demo(Path(options.folder), console)])
    return 0


def _fit(options: Namespace, console: Console) -> int:
    from adamerge.runs.fit import fit

    config = _config(options)
    resume = "ckpt_path" in options
    try:
        done = fit(config, _resolved(options), resume=resume, console=console)
    except KeyboardInterrupt:
        done = None
    if done:
        return 0
    former = Path(config.run_dir).expanduser() / "config.yaml"
    command = shlex.join(["adamerge", "fit", "--config", str(former), "--ckpt_path", "last"])
    _complain(f"interrupted. Go on with: {command}" if former.exists() else "interrupted. Nothing was written.")
    return INTERRUPTED


def parse_file(path: Path) -> "MergeConfig":
    """Read a configuration from a YAML file.

    Raises:
        ConfigError: There is no such file, or a key or value in it is wrong.
    """
    arguments = ["--config", str(path)]
    parser = ArgumentParser(exit_on_error=False)
    _add_merge(parser, arguments)
    with _plain_errors():
        return _config(parser.parse_args(arguments))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Say in plain words what jsonargparse finds wrong with what was written."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*optimizer", category=DeprecationWarning)
            yield
    except ConfigError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        from adamerge.runs.config_errors import explain

        raise ConfigError(explain(str(error))) from error


def _parser(arguments: Sequence[str]) -> ArgumentParser:
    """All commands, of which only the one that is asked for has its options: the others' take time to find out."""
    parser = ArgumentParser(
        prog="adamerge",
        description="Learn from unlabeled rows how much of each fine-tuned expert to merge.",
        epilog="adamerge COMMAND --help explains a command.",
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,  # of the commands too
    )
    commands = parser.add_subcommands(title="commands", description=None, metavar="COMMAND")
    for command, description in COMMANDS.items():
        own = ArgumentParser(description=textwrap.fill(description), exit_on_error=False, allow_abbrev=False)
        if command == arguments[0]:
            _add_options(own, command, arguments)
        commands.add_subcommand(command, own, help=description)
        own.prog = f"adamerge {command}"
    return parser


def _add_options(parser: ArgumentParser, command: str, arguments: Sequence[str]) -> None:
    match command:
        case "fit":
            _add_merge(parser, arguments)
            parser.add_argument(
                "--ckpt_path", type=Literal["last"], default=SUPPRESS, help="last: go on with the run in run_dir."
            )
        case "check":
            _add_merge(parser, arguments)
            parser.add_argument(
                "--deep",
                action="store_true",
                default=SUPPRESS,
                help="Read all weights too: NaNs, equal to the base, from another base.",
            )
        case "export":
            parser.add_argument("run", type=str, help="Run directory.")
            parser.add_argument("out", type=str, help="Where to; must not exist.")
            parser.add_argument(
                "--out_dtype", type=DType | None, default=None, help="Of the numbers on disk; as in the run by default."
            )
        case "evaluate":
            parser.add_argument("run", type=str, help="Run directory.")
        case _:
            parser.add_argument("--folder", type=str, default="demo", help="Where everything is written.")


def _add_merge(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    from adamerge.runs.config import DEFAULT, PRESETS, MergeConfig

    parser.description = f"{parser.description or ''}\n{MINIMAL}"
    parser.usage = "%(prog)s --config FILE [--key value ...]"
    parser.add_argument("--config", action="config", help="YAML file; options after it overrule it.")
    parser.add_class_arguments(MergeConfig, None)
    written = _written(arguments, ("method", "centre"))
    preset = dict(PRESETS.get(str(written.get("method")), PRESETS[DEFAULT]))
    centre = written.get("centre")
    if isinstance(centre, dict) and "class_path" not in centre:  # options of RegMean, not of the preset's own centre
        preset.pop("centre", None)
    parser.set_defaults(preset)


def _written(arguments: Sequence[str], keys: Sequence[str]) -> dict[str, object]:
    """What the command line and its files say of keys of the first level, the last one winning."""
    written: dict[str, object] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, value = argument.partition("=")
        if option == "--config" and (value or following):
            written |= _content(Path(value or following))
        elif option.removeprefix("--") in keys:
            with suppress(yaml.YAMLError):  # the parser will complain of it
                written[option.removeprefix("--")] = yaml.safe_load(value or following)
    return written


def _content(file: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(f"{file}: there is no such file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: this is not YAML in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected keys and values, such as base_model: …; see adamerge fit --help.")
    return content


def _config(options: Namespace) -> "MergeConfig":
    """The part of a command's options that says what to merge, as objects."""
    from adamerge.runs.config import MergeConfig

    with _plain_errors():
        made = _merge_parser(options).instantiate(_part(options))
    return MergeConfig(**{field.name: made[field.name] for field in fields(MergeConfig)})


def _resolved(options: Namespace) -> str:
    """The same as YAML, everything that was left to its default included, and local paths absolute."""
    from adamerge.runs.paths import anchored

    settings = yaml.safe_load(_merge_parser(options).dump(_part(options), skip_unset=False))
    return yaml.safe_dump(anchored(settings), sort_keys=False, allow_unicode=True)


def _merge_parser(options: Namespace) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    _add_merge(parser, ["--method", options.method])
    return parser


def _part(options: Namespace) -> Namespace:
    from adamerge.runs.config import MergeConfig

    return Namespace({field.name: options[field.name] for field in fields(MergeConfig)})
