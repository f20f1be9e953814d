"""Tables, metrics.json and reports say what was measured and which direction is better, also of several metrics."""

import io
import json
import math

import pytest
from rich.console import Console

from adamerge.results.candidates import CANDIDATES
from adamerge.results.compare import Comparison, finite
from adamerge.results.evaluate import MEAN, relative
from adamerge.results.measures import MEASURES, OWN, comparable
from adamerge.results.report import comparison_table
from adamerge.results.seen_run import SeenRun
from adamerge.results.verdict import verdict


def comparison(metrics, **scores):
    tasks = list(metrics)
    found = {key: dict.fromkeys([*tasks, MEAN]) for key in CANDIDATES}
    measures = {task: MEASURES[name] for task, name in metrics.items()}
    for key, values in scores.items():
        own = dict(zip(tasks, values, strict=True))
        found[key] = {**own, MEAN: sum(values) / len(values) if comparable(measures.values()) else None}
    return Comparison(found, {}, measures, None)


def seen(one, predictions=None):
    metrics = {**json.loads(json.dumps(one.as_json())), "run": {"predictions": predictions or {}}}
    return SeenRun("run", None, {}, metrics, {}, None)  # pyright: ignore


@pytest.mark.parametrize("name", MEASURES)
def test_one_metric_is_named_with_its_direction(name):
    one, measure = comparison({"a": name, "b": name}, expert=(80.0, 40.0), learned=(40.0, 20.0)), MEASURES[name]
    assert one.unit == seen(one).unit == measure.unit
    assert ("higher" if measure.higher else "lower") + " is better" in one.unit
    expected = 50.0 if measure.higher else 200.0
    assert one.relative()["learned"] == {"a": expected, "b": expected, MEAN: expected}
    assert one.as_json()["metric"] == name
    assert one.as_json()["higher_is_better"] == {"a": measure.higher, "b": measure.higher}
    assert verdict(seen(one)).startswith(f"The merge has a mean {measure.words} of 30.0")


def test_several_metrics_have_a_mean_only_if_all_are_percentages():
    both = comparison({"a": "accuracy", "b": "exact_match"}, expert=(80.0, 40.0), learned=(40.0, 40.0))
    assert both.scores["learned"][MEAN] == 40
    mixed = comparison({"a": "accuracy", "b": "perplexity"}, expert=(80.0, 10.0), learned=(40.0, 40.0))
    assert mixed.scores["learned"][MEAN] is None
    assert mixed.relative()["learned"] == {"a": 50.0, "b": 25.0, MEAN: 37.5}
    assert mixed.unit == OWN
    assert "37.5 % of what the experts reach" in verdict(seen(mixed))
    out = io.StringIO()
    Console(file=out, width=120).print(comparison_table(mixed))
    assert "a (accuracy, %, higher is better)" in out.getvalue()
    assert "b (perplexity, lower is better)" in out.getvalue()


def test_small_scores_and_differences_are_not_rounded_away():
    one = comparison({"a": "mse", "b": "mse"}, expert=(0.01234, 0.02), learned=(0.0256, 0.03))
    out = io.StringIO()
    Console(file=out, width=120).print(comparison_table(one))
    for text in ("0.0123", "0.0256 (48)"):
        assert text in out.getvalue()
    assert "mean squared error of 0.0278" in verdict(seen(one))


def test_a_card_holds_no_number_that_json_cannot():
    one = comparison({"a": "perplexity"}, expert=(2.0,), learned=(math.inf,))
    assert finite(one.scores)["learned"]["a"] is None
    assert finite(one.relative())["expert"]["a"] == 100


@pytest.mark.parametrize(("name", "known"), [("exact_match", True), ("rouge", False), ("perplexity", False)])
def test_only_shares_of_rows_have_an_interval_from_their_number(name, known):
    run = seen(comparison({"a": name}, expert=(50.0,), learned=(50.0,)), {"a": 100})
    assert (run.score_interval("learned", "a") is not None) == known


def test_nothing_is_divided_by_zero():
    assert relative({"a": 0.0}, {"a": 0.0}, higher_is_better=False) == {"a": None}
    assert relative({"a": 5.0}, {"a": 0.0}, higher_is_better=True) == {"a": None}
