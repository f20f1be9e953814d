"""The table of methods has every preset, and what it says of them is so."""

import re
from pathlib import Path

import pytest

from adamerge.runs.methods import ABOUT, learns, needs
from adamerge.runs.presets import PRESETS
from adamerge.runs.read_config import merge_config


def test_every_preset_is_described():
    assert list(ABOUT) == list(PRESETS)


@pytest.mark.parametrize("method", PRESETS)
def test_needs_and_learns_are_what_a_configuration_needs(method):
    config = merge_config({"base_model": "b", "models": [{"model": "x"}], "method": method}, use="keep")
    assert (needs(method) == "unlabeled rows") == config.needs_rows
    assert (learns(method) == "nothing") == (config.trainer.max_steps == 0)


def test_the_command(main):
    code, said, complaint = main("methods")
    assert (code, complaint) == (0, "")
    first = [line.split()[0] for line in said.splitlines() if line[:1].strip()]
    assert set(PRESETS) <= set(first)  # each name in one piece


@pytest.mark.parametrize("method", [method for method, about in ABOUT.items() if about.accuracy])
def test_accuracies_are_those_of_the_measurements(method):
    measured = (Path(__file__).parents[2] / "docs/measured.md").read_text(encoding="utf-8")
    rows = re.findall(
        rf"^\| `?{re.escape(method)}`? \|(?: unlabeled \| | none \| | )(\d+\.\d+) \|", measured, re.MULTILINE
    )
    assert ABOUT[method].accuracy in map(float, rows)


def test_the_readme_says_what_the_command_says():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = text.partition("| you have | method |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \| [^|]+ \| ([\d., ]+) \|$", table, re.MULTILINE)
    assert len(rows) == table.count("\n") - 1
    for names, shown in rows:
        assert [f"{ABOUT[name].accuracy:.1f}" for name in re.findall(r"`(.+?)`", names)] == shown.split(", ")
