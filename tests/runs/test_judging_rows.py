"""Of many held-out rows some choose nothing: step, scale and guard go by the others, tables and verdict by these."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import configuration, save_rows, write

from adamerge.data.rows import TensorRows
from adamerge.data.schedule import JUDGING
from adamerge.data.settings import Batching
from adamerge.learning.learn import divide
from adamerge.runs.run_facts import HELD_OUT


@given(st.integers(1, 700), st.floats(0, 0.9), st.none() | st.integers(32, 200))
def test_rows_have_one_use_each(count, share, most):
    how = Batching(held_out=share, most_held_out=most)
    parts = divide({"a": TensorRows({"x": torch.arange(count)})}, how, seed=3)
    uses = [part["a"].batch(range(len(part["a"]))).inputs["x"].tolist() if part else [] for part in _of(parts)]
    learn, watch, judge = uses
    assert sorted([*learn, *watch, *judge]) == list(range(count))
    assert len(watch) + len(judge) == how.held_out_of(count)
    assert len(judge) == (JUDGING if how.held_out_of(count) >= 2 * JUDGING else 0)


def _of(parts):
    return parts.learn, parts.watch, parts.judge


@pytest.mark.parametrize("guard", [False, True])
def test_a_verdict_is_of_rows_that_chose_nothing_where_there_are_enough(family, main, guard):
    save_rows(family / "mood.jsonl", 300, 1)
    save_rows(family / "topic.jsonl", 100, 2)
    models = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    settings = {"models": models, "data": {"batch_size": 4, "rows": None, "held_out": 0.5}, "centre": "Isotropic"}
    settings |= {"objective": "LogitAlignment", "watch": {"every": 3, "guard": guard}, "feasible": "Unbounded"}
    code, out, _ = main("fit", "--config", write(configuration(**settings)), "--run_dir", "run")
    assert code == 0
    assert "note: held out: 64 of the held-out rows of mood choose nothing" in out
    assert "; those of topic chose step and scale, which flatters both." in out
    metrics = json.loads((family / "run/metrics.json").read_text())
    assert metrics["verdict"] in out.replace("\n", " ")
    assert metrics["run"]["held_out_predictions"] == {"mood": 64, "topic": 50}
    assert {task: own[HELD_OUT] for task, own in metrics["run"]["rows"].items()} == {"mood": 150, "topic": 50}
    chosen_on = next(look["divergence"] for look in metrics["history"] if look["step"] == metrics["best_step"])
    assert metrics["divergence"]["learned"]["mean"] != pytest.approx(chosen_on, rel=1e-6)
    assert ("centre" in metrics["divergence"]) == guard


def test_evaluating_again_judges_by_the_same_rows(family, main):
    save_rows(family / "mood.jsonl", 300, 1)
    settings = {"data": {"batch_size": 4, "rows": None, "held_out": 0.5}, "objective": "LogitAlignment"}
    assert main("fit", "--config", write(configuration(**settings)), "--run_dir", "run")[0] == 0
    before = json.loads((family / "run/metrics.json").read_text())
    assert main("evaluate", "run")[0] == 0
    again = json.loads((family / "run/metrics.json").read_text())
    assert again["divergence"]["learned"] == pytest.approx(before["divergence"]["learned"], rel=1e-5)
