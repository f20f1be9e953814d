"""The bar and the line that count the batches of an evaluation."""

import io
import re
from contextlib import contextmanager

import pytest
from rich.console import Console

from adamerge.results import compare
from adamerge.results.evaluation_progress import counting


@pytest.mark.parametrize("terminal", [True, False])
def test_batches_are_counted(terminal):
    said = io.StringIO()
    with counting(Console(file=said, force_terminal=terminal, width=80), 4) as tick:
        tick(3)
    assert ("3/4" in said.getvalue()) is terminal
    assert (said.getvalue() == "evaluating: 4 batches\n") is not terminal


def test_a_run_counts_every_batch_that_it_announces_and_tells_the_time_left(family, main, monkeypatch):
    announced, done = [], []

    @contextmanager
    def recorded(console, batches):
        announced.append(batches)
        yield done.append

    monkeypatch.setattr(compare, "counting", recorded)
    code, said, _ = main("fit", "--config", "merge.yaml", "--run_dir", "run")
    assert code == 0
    assert announced == [sum(done)] != [0]
    assert len(re.findall(r"at most \S+ s left of these steps", said)) == 1  # after three of six steps
