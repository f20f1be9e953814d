"""Completion knows every command, option and method, and bash completes with it."""

import shutil
import subprocess

import pytest

from adamerge import cli
from adamerge.completion import script
from adamerge.merge_commands import MERGES
from adamerge.more_commands import PLACES
from adamerge.runs.key_names import place_names
from adamerge.runs.presets import PRESETS
from adamerge.runs.sources import PLACE

PLACES_OF_A_MODEL = ("model", "adapter", "calibration", "evaluation")
WORDS = [
    (["ev"], {"evaluate"}),
    ([""], {*cli.COMMANDS}),
    (["fit", "--data.held"], {"--data.held_out"}),
    (["check", "--met"], {"--method"}),
    (["fit", "--method", "asw"], {"aswudi"}),
    (["fit", "--method", ""], {*PRESETS}),
    (["fit", "--method", "=", "asw"], {"aswudi"}),  # as bash cuts --method=asw
    (["fit", "--method", "="], {*PRESETS}),
    (["export", "run", "out", "--push"], {"--push_to_hub"}),
    (["init", "--from"], {"--from_mergekit"}),
    (["replay", "run/recipe.json", "out", "--ba"], {"--base_model"}),
    (["replay", "run/recipe.json", "out", "--al"], {"--allow_code"}),
    (["reproduce", "run", "--models.3."], {f"--models.3.{key}" for key in PLACES_OF_A_MODEL}),
    (["reproduce", "run", "--meth"], set()),
    (["completion", ""], {"bash", "zsh", "fish"}),
    (["fit", "mer"], set()),  # a file
    (["methods", "--method"], set()),
]
ASK = 'ask() { COMP_WORDS=(adamerge "$@"); COMP_CWORD=$#; _adamerge; echo "${COMPREPLY[*]}"; }\n'


@pytest.fixture(scope="module")
def scripts():
    return {shell: script(shell, cli.COMMANDS, cli.OPTIONS, MERGES, PLACES) for shell in ("bash", "zsh", "fish")}


def test_bash_completes(scripts):
    asked = "\n".join(f"ask {' '.join(map(repr, words))}" for words, _ in WORDS)
    done = subprocess.run(
        ["bash", "--norc", "-c", scripts["bash"] + ASK + asked], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert [set(line.split()) for line in done.stdout.splitlines()] == [expected for _, expected in WORDS]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_same(scripts, shell):
    found = scripts[shell].replace("-l ", "--").replace(";", " ").replace(")", " ").split()
    named = {
        word
        for word in scripts["bash"].replace('"', " ").replace(")", " ").split()
        if word.startswith("--") and word != "--"
    }
    assert {*cli.COMMANDS, *PRESETS, *named} <= {word.strip("'") for word in found}
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=scripts[shell], text=True, check=False).returncode == 0


def test_the_command(main):
    assert main("completion", "tcsh")[0] == cli.BAD_INPUT
    code, said, complaint = main("completion", "bash")
    assert (code, complaint) == (0, "")
    assert said.endswith("complete -o default -F _adamerge adamerge\n")


def test_all_that_is_completed_of_a_repeated_run_is_a_place():
    assert all(map(PLACE.fullmatch, place_names()))
