"""What a step takes, in a run and against numbers that are given."""

import re

from adamerge.learning import step_costs
from adamerge.learning.step_costs import StepCosts


def test_only_what_is_read_inside_steps_counts(monkeypatch):
    disk, clock = iter([0, 10, 500, 530]), iter([0.0, 1.0, 7.0, 9.0])  # 490 bytes and 6 s pass between the steps
    monkeypatch.setattr(step_costs, "read_from_disk", lambda: next(disk))
    monkeypatch.setattr(step_costs.time, "perf_counter", lambda: next(clock))
    costs = StepCosts()
    for number in range(2):
        costs.on_train_batch_start(None, None, None, number)
        costs.on_train_batch_end(None, None, None, None, number)
    assert (costs.steps, costs.seconds, costs.bytes) == (2, 3.0, 40)


def test_a_run_says_what_its_steps_took(finished):
    text = (finished / "log.txt").read_text()
    assert len(re.findall(r"^a step took \S+ s and read [\d.]+ MB from the disk$", text, re.MULTILINE)) == 1
