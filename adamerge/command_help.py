"""Help on the commands and on every key of a configuration (jsonargparse)."""

import re
import textwrap
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from typing_extensions import override

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


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help that leaves the line breaks of descriptions alone, and breaks long lists of choices."""

    @override
    def _format_action_invocation(self, action: Action) -> str:
        text = re.sub(r",(?=\S)", ", ", super()._format_action_invocation(action))
        return textwrap.fill(text, 76, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)


def show_help(
    arguments: Sequence[str], descriptions: Mapping[str, str], options: Mapping[str, type], merges: Sequence[str]
) -> None:
    """Print the help that the arguments ask for, and end.

    Args:
        arguments: The whole command line.
        descriptions: What each command does.
        options: Dataclass of each command's own options.
        merges: Commands that take a configuration.

    Raises:
        SystemExit: Always.
    """
    parser = ArgumentParser(
        prog="adamerge",
        description="Learn from unlabeled rows how much of each fine-tuned expert to merge.",
        epilog="adamerge COMMAND --help explains a command, --version prints the version.",
        formatter_class=_HelpFormatter,  # of the commands too
    )
    commands = parser.add_subcommands(title="commands", description=None, metavar="COMMAND")
    for command, description in descriptions.items():
        own = ArgumentParser(description=textwrap.fill(description))
        if command == arguments[0]:  # the others' options take time to find out
            _add_options(own, options[command], command in merges)
        commands.add_subcommand(command, own, help=description)
        own.prog = f"adamerge {command}"
    parser.parse_args(arguments)


def _add_options(parser: ArgumentParser, own: type, merges: bool) -> None:
    if merges:
        _add_configuration(parser)
    parser.add_class_arguments(own, None, as_group=not merges, as_positional=True)


def _add_configuration(parser: ArgumentParser) -> None:
    from adamerge.runs.config import MergeConfig
    from adamerge.runs.layers import import_paths
    from adamerge.runs.presets import DEFAULT, PRESETS

    parser.description = f"{parser.description or ''}\n{MINIMAL}"
    parser.usage = "%(prog)s --config FILE [--key value ...]"
    parser.add_argument("--config", type=str, help="YAML file; options after it overrule it.")
    parser.add_class_arguments(MergeConfig, None, skip={"written"})
    parser.set_defaults({"method": DEFAULT, **import_paths(PRESETS[DEFAULT])})
