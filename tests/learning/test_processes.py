"""Two processes, as torchrun starts them, learn the coefficients of one, and only the first of them writes."""

import json
from pathlib import Path

import pytest
from support.families import save_text_family
from support.learned_together import METHODS, STRATEGIES, coefficients, fit_of, place_of
from support.processes import run_together
from support.releases import HAS_FSDP2, needs_fsdp2

from adamerge.cli import BAD_INPUT

TOGETHER = [(method, "fsdp2" if HAS_FSDP2 and method == "expert_merging++" else "ddp") for method in METHODS]


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Three tasks, which two processes cannot share evenly, of models with two layers."""
    monkeypatch.chdir(save_text_family(tmp_path, ("mood", "topic", "speed"), layers=2))
    return tmp_path


@pytest.mark.long
def test_two_processes_learn_what_one_learns(family, main):
    commands = [fit_of(method, 2, strategy) for method, strategy in TOGETHER]
    assert run_together(commands, family) == [0, 0], Path("0.txt").read_text() + Path("1.txt").read_text()
    assert Path("1.txt").read_text() == ""  # only the first one prints
    for method in METHODS:
        code, _, complaint = main(*fit_of(method))
        assert (code, complaint) == (0, "")
    for method, strategy in TOGETHER:
        start, *_, end = json.loads(Path(place_of(method, 2, strategy), "metrics.json").read_text())["history"]
        assert abs(end["objective"] - start["objective"]) > 1e-4  # it has learned
        gap = (coefficients(place_of(method, 2, strategy)) - coefficients(place_of(method))).abs().max()
        assert gap < 1e-5, (method, strategy)


@pytest.mark.parametrize(("strategy", "call"), [("ddp", 4), pytest.param("fsdp2", 12, marks=needs_fsdp2)])
def test_a_killed_process_ends_the_other_and_the_run_goes_on_alone(family, main, strategy, call):
    command, strike = fit_of("adamerging", 2, strategy), STRATEGIES[strategy]._replace(call=call)
    assert run_together([command], family, strikes={1: strike}) == [BAD_INPUT, -strike.number]
    assert "error: process 0 of 2: another process of this run has ended" in Path("0.txt").read_text()
    if strategy == "ddp":
        assert run_together([command], family) == [BAD_INPUT, 0]  # the second hears that the first one has refused
        assert "already exists" in Path("0.txt").read_text()
    assert Path("1.txt").read_text() == ""
    alone = ("--trainer.devices", 1, "--trainer.strategy", "ddp", "--ckpt_path", "last")
    assert main(*command, *alone)[0] == 0
    assert main(*fit_of("adamerging"))[0] == 0
    gap = (coefficients(place_of("adamerging", 2, strategy)) - coefficients(place_of("adamerging"))).abs().max()
    assert gap < 1e-5
