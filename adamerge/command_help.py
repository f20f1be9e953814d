"""Print help on the commands and on every key of a configuration (by jsonargparse)."""

import re
import textwrap
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from typing_extensions import override

MINIMAL = """
This is a complete configuration; every other key has a default:

  base_model: models/base
  models:
    - {model: models/news, calibration: news.jsonl}
    - {model: models/trec, calibration: trec.jsonl, evaluation: trec_test.jsonl}

Save it as merge.yaml and run

  adamerge check --config merge.yaml
  adamerge fit --config merge.yaml --run_dir runs/first

Write any key below into the file, or as an option, which overrides the file. A
dot is a level of nesting: --data.rows 64 is data: {rows: 64} in the file.
Write a class as Name or as {class_path: Name, init_args: {key: value}};
--objective.help Entropy explains the options of a class.
Without --method, the preset auto applies; defaults below are its values.
--print_config prints the values of all keys for your configuration.
"""


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Formatter that keeps the line breaks of descriptions, and wraps long lists of choices."""

    @override
    def _get_help_string(self, action: Action) -> str:
        action.required = action.required and action.default is None  # an option with a default may be left out
        return super()._get_help_string(action)

    @override
    def _format_action_invocation(self, action: Action) -> str:
        text = re.sub(r",(?=\S)", ", ", super()._format_action_invocation(action))
        return textwrap.fill(text, 76, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)


def show_help(
    arguments: Sequence[str], descriptions: Mapping[str, str], options: Mapping[str, type], merges: Sequence[str]
) -> None:
    """Print the help that the arguments request, and exit.

    Args:
        arguments: Words after `adamerge`.
        descriptions: Description per command.
        options: Dataclass of own options per command.
        merges: Commands that take a configuration.

    Raises:
        ConfigError: Help on a class was requested that there is not.
        SystemExit: Always, otherwise.
    """
    parser = ArgumentParser(
        prog="adamerge",
        description="Merge fine-tuned experts; learn from unlabeled rows how much of each to take.",
        epilog="adamerge COMMAND --help explains a command, --version prints the version.",
        formatter_class=_HelpFormatter,  # also used by the commands
    )
    commands = parser.add_subcommands(title="commands", description=None, metavar="COMMAND")
    for command, description in descriptions.items():
        own = ArgumentParser(description=textwrap.fill(description))
        if command == arguments[0]:  # collecting options is slow
            _add_options(own, options[command], command in merges)
        commands.add_subcommand(command, own, help=description)
        own.prog = f"adamerge {command}"
    parser.parse_args(_requested(arguments))


def _requested(arguments: Sequence[str]) -> list[str]:
    """Reduce the command line to the help that it requests, because jsonargparse imports what other words name."""
    command, *words = arguments
    for word, after in pairwise([*words, ""]):
        option, _, value = word.partition("=")
        if option.startswith("--") and option.endswith(".help"):
            return [command, f"{option}={_path_of(option, value or after)}"]
    return [command] if command.startswith("-") else [command, "--help"]


def _path_of(option: str, name: str) -> str:
    """Return the import path of a class that a key allows.

    Raises:
        ConfigError: There is no such class.
    """
    from adamerge.runs.class_names import find_class, import_path, known_classes
    from adamerge.runs.layers import kinds_of
    from adamerge.runs.similar_words import nearest
    from adamerge.runs.type_hints import in_words, nameable
    from adamerge.types import ConfigError

    kinds = kinds_of(option.removeprefix("--").removesuffix(".help"))
    cls = find_class(nameable(kinds), name)
    if cls is None:
        known = [own for kind in nameable(kinds) for own in known_classes(kind)]
        raise ConfigError(f"{option}: expected {in_words(kinds)}, found {name!r}.{nearest(name, known)}")
    return import_path(cls)


def _add_options(parser: ArgumentParser, own: type, merges: bool) -> None:
    if merges:
        _add_configuration(parser)
    parser.add_class_arguments(own, None, as_group=not merges, as_positional=True)


def _add_configuration(parser: ArgumentParser) -> None:
    from adamerge.runs.config import MergeConfig
    from adamerge.runs.key_names import UNSAVED
    from adamerge.runs.layers import import_paths
    from adamerge.runs.presets import DEFAULT, PRESETS

    parser.description = f"{parser.description or ''}\n{MINIMAL}"
    parser.usage = "%(prog)s --config FILE [--key value ...]"
    parser.add_argument("--config", type=str, help="YAML file with the configuration; options override it.")
    parser.add_class_arguments(MergeConfig, None, skip={*UNSAVED})
    parser.set_defaults({"method": DEFAULT, **import_paths(PRESETS[DEFAULT])})
