"""The commands in Markdown files: those that no test can run are read as the command line reads them."""

import shlex
from pathlib import Path

from adamerge import cli, merge_commands
from adamerge.command_line import read_arguments
from adamerge.runs.read_config import merge_layers
from adamerge.types import ConfigError

ROOT = Path(__file__).parent.parent.parent
TOOLS = {"adamerge", "python", "python3", "bash", "pip", "pytest", "torchrun", "srun", "mergekit-yaml"}


def commands(text):
    """The commands of a block, each a list of words, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines for part in line.split("&&") if (words := shlex.split(part, True))]


def judge(words, place):
    """Look that a command which no test runs has the options and keys that it is given."""
    if words[0] == "mergekit-yaml":
        return  # not ours
    assert words[0] in ("adamerge", "torchrun", "srun"), f"{place}: {words}"
    command, *rest = words[words.index("adamerge") + 1 :]
    if problem := cli.unknown_command(command):
        raise ConfigError(problem)
    _, layers = read_arguments(cli.OPTIONS[command], rest, merges=cli.takes_keys(command))
    if command in merge_commands.MERGES:
        merge_layers(layers)


def assert_takes(script, words, place):
    """A script is there, and every option that it is given stands in it; to ask each for its --help takes a minute."""
    assert (ROOT / script).is_file(), f"{place}: {script}"
    code = (ROOT / script).read_text(encoding="utf-8")
    unknown = [word for word in words if word.startswith("--") and f'"{word.partition("=")[0]}"' not in code]
    assert not unknown, f"{place}: {script} has no option {unknown}"
