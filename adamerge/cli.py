"""Commands: read the command line, run a command, and convert errors to messages and exit codes."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from adamerge import merge_commands, more_commands
from adamerge.completion import Shell
from adamerge.import_problems import import_problem
from adamerge.printable import print_anything
from adamerge.storage.file_names import at_home
from adamerge.storage.signals import as_ctrl_c, end_at_once, unhurried

if TYPE_CHECKING:  # slow imports are in the commands that need them
    from rich.console import Console

    from adamerge.runs.config import MergeConfig
    from adamerge.runs.read_yaml import Document

BAD_INPUT = 2
INTERRUPTED = 130
LIBRARIES = 450e6
"""Bytes of a process that has imported torch and transformers, and merges nothing yet (measured)."""

SCREEN = 20
"""Largest number of lines of an error message."""

COMMANDS = {
    **merge_commands.COMMANDS,
    **more_commands.COMMANDS,
    "completion": "Print what bash, zsh or fish evaluates to complete commands, options and methods.",
    "demo": "Train a small base model and four experts, merge them, and print the scores.",
}


@dataclass(frozen=True)
class Demo:
    """Options of `demo`.

    Attributes:
        folder: Folder to write models, data and the run to.
    """

    folder: str = "demo"


@dataclass(frozen=True)
class Completion:
    """Options of `completion`.

    Attributes:
        shell: The shell.
    """

    shell: Shell


OPTIONS: dict[str, type] = {
    **merge_commands.OPTIONS,
    **more_commands.OPTIONS,
    "completion": Completion,
    "demo": Demo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after `adamerge`; by default those of the command line.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if arguments is None:  # and no notebook calls, which shows pictures of its own
        os.environ["MPLBACKEND"] = "agg"  # matplotlib is not imported under a name that it lacks
        end_at_once()
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    print_anything()
    try:
        with as_ctrl_c():
            return _run(words) if arguments is not None else _run_alone(words)
    except KeyboardInterrupt as stop:
        with unhurried():
            _print_error(f"interrupted. {_what_remains(stop)}")
        return INTERRUPTED
    except Exception as error:
        _print_error(_message_of(error), lines_at_most=None if words[0] == "check" else SCREEN)
    return BAD_INPUT


def unknown_command(word: str) -> str | None:
    """Say that a word is no command, and which one is most similar; None if it is one.

    Example:
        >>> unknown_command("--config"), unknown_command("fit")
        ('there is no option --config; expected a command; adamerge --help lists them.', None)
    """
    if word in COMMANDS:
        return None
    from adamerge.runs.similar_words import nearest

    known, options = [*COMMANDS], ["--help", "--version"]
    if word.startswith("-"):
        return f"there is no option {word}; expected a command; adamerge --help lists them.{nearest(word, options)}"
    words = f"there is no command {word}; expected one of {', '.join(map(repr, known))}; adamerge --help explains them."
    if word.endswith((".yaml", ".yml")):
        return f"{words} Did you mean adamerge fit {word}?"
    return words + nearest(word, [*known, *options])


def parse_file(path: Path, *, allow_code: bool = False) -> "MergeConfig":
    """Read a configuration from a YAML file; see `adamerge.runs.read_config.read_config`."""
    from adamerge.runs.read_config import read_config

    return read_config(path, allow_code=allow_code)


def _message_of(error: Exception) -> str:
    """Return the message of an error that users can fix; raise any other error again."""
    from adamerge.storage.file_names import unnamed
    from adamerge.types import ConfigError, IncompatibleExpertsError, shortened

    if isinstance(error, ConfigError | IncompatibleExpertsError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:  # a full disk, a missing permission
        place = f"{error.filename}: " if error.filename else ""
        return shortened(f"{place}{error.strerror}. {_what_remains(error)}")
    if isinstance(error, UnicodeError) and (problem := unnamed(error)):
        return problem
    if problem := import_problem(error):
        return problem
    raise error


def _what_remains(error: BaseException) -> str:
    """Say what an interrupted command left, as its error says."""
    said = error.args if isinstance(error, KeyboardInterrupt) else ()
    return " ".join(map(str, [*said, *getattr(error, "__notes__", ())])) or "No incomplete files remain."


def _print_error(message: str, lines_at_most: int | None = SCREEN) -> None:
    from rich.console import Console

    lines = message.splitlines()
    if lines_at_most and len(lines) > lines_at_most:
        left_out = len(lines) - lines_at_most + 1
        lines = [*lines[: lines_at_most - 1], f"… and {left_out} more; `adamerge check` lists all."]
    console = Console(stderr=True, emoji=False)
    console.print("[bold red]error:[/]", end=" ")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _run_alone(arguments: list[str]) -> int:
    """Run the only command of this process."""
    from adamerge.storage.atomic_files import without_kept_folders

    with without_kept_folders():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    command, *rest = arguments
    if "--version" in arguments:
        import adamerge

        print(f"adamerge {adamerge.__version__}")
        return 0
    if any(word in ("-h", "--help") or _is_class_help(word) for word in arguments):
        from adamerge.command_help import show_help

        show_help(arguments, COMMANDS, OPTIONS, merge_commands.MERGES)
    if problem := unknown_command(command):
        _print_error(problem)
        return BAD_INPUT
    from rich.console import Console

    if not rest and not fields(OPTIONS[command]):  # nothing to read: `methods` answers without torch
        return _call(OPTIONS[command](), [], Console(emoji=False))
    _warn_of_little_memory()
    from adamerge.command_line import read_arguments

    options, layers = read_arguments(
        OPTIONS[command], rest, merges=takes_keys(command), whole=command in merge_commands.MERGES
    )
    return _call(options, layers, Console(emoji=False))


def _warn_of_little_memory() -> None:
    """Say that the system may end this process while it imports torch, before anything else can be said."""
    from adamerge.storage.memory import free_memory

    if (free := free_memory()) < LIBRARIES:
        print(
            f"warning: {free / 1e6:.0f} MB of memory are free on this machine and in its control groups, but Python's "
            f"libraries alone take {LIBRARIES / 1e6:.0f} MB, so the system may end this process without a word. Free "
            "memory, or raise the container's limit.",
            file=sys.stderr,
            flush=True,
        )


def takes_keys(command: str) -> bool:
    """Return whether options of a command beside its own are keys of a configuration."""
    return command in (*merge_commands.MERGES, *more_commands.PLACES)


def _is_class_help(word: str) -> bool:
    """Return whether a word requests the options of a class: --optimizer.help Adam."""
    return word.startswith("--") and word.partition("=")[0].endswith(".help")


def _call(options: object, layers: "Sequence[Document]", console: "Console") -> int:
    match options:
        case Demo(folder):
            from adamerge.demo import demo

            return demo(at_home(folder), lambda words: main(["fit", *words]), console)
        case Completion(shell):
            from adamerge.completion import script

            print(script(shell, COMMANDS, OPTIONS, merge_commands.MERGES, more_commands.PLACES), end="")
            return 0
        case _ if type(options) in more_commands.OPTIONS.values():
            more_commands.call(options, layers, console)
            return 0
        case _:
            return 0 if merge_commands.call(options, layers, console) else BAD_INPUT
