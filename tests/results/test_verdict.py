"""One sentence says how a merge did, of what, and against what."""

from dataclasses import replace

import pytest
from results.test_report_page import made

from adamerge.results.sections import sections
from adamerge.results.verdict import verdict


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "has a mean accuracy of 80.5 %, 95.0 % of what the experts reach"),
        ({}, "that is 2.0 points above the average (within the bootstrap interval)."),
        (
            {"task_arithmetic": 1.0},
            "1.0 points above task arithmetic at 0.3 (within the bootstrap interval), the best ",
        ),
        ({"task_arithmetic": 0.0}, "; that is as much as task arithmetic at 0.3 has, the best merge without learning"),
        ({"scores": False}, "On 90.0 % of the held-out unlabeled rows"),
        ({"scores": False}, "No labeled rows were given"),
        ({"scores": False, "agreement": False}, "Nothing was measured"),
    ],
)
def test_the_verdict(options, words):
    less = (options := dict(options)).pop("task_arithmetic", None)
    run = made(**options)
    if less is not None:
        own = {task: value - less for task, value in run.metrics["learned"].items()}
        run = replace(run, metrics={**run.metrics, "task_arithmetic": own})
    assert words in verdict(run)


@pytest.mark.parametrize("agreement", [True, False])
def test_scores_without_a_mean_are_not_called_missing(agreement):
    """Of two metrics, one of which is 0 for the expert, for example."""
    own = made(history=False, agreement=agreement)
    scores = {key: {**own.metrics[key], "mean": None} for key in ("learned", "expert", "average")}
    found = verdict(replace(own, metrics={**own.metrics, **scores, "metric": "mixed", "percent_of_expert": {}}))
    assert found.endswith("they have no mean, because metrics differ or a score is missing.")
    assert ("On 90.0 % of" in found) == agreement


@pytest.mark.parametrize(
    ("counts", "speak", "words"),
    [
        ({"<b>news": 9, "a|b": 9}, [], "the held-out unlabeled rows"),
        ({"a|b": 9}, ["<b>news"], "the predictions (tokens) on held-out"),
        ({"a|b": 9}, ["a|b"], "the predictions on held-out"),
        ({}, ["a|b"], "the predictions on held-out"),
        ({}, None, "the predictions on held-out"),  # of an earlier version
    ],
)
def test_agreement_is_of_rows_or_of_their_predictions_which_are_tokens_of_language(counts, speak, words):
    own = made(scores=False, history=False)
    own.facts.update({"held_out_predictions": counts} | ({} if speak is None else {"language_models": speak}))
    assert words in verdict(own)
    assert words in sections(own)[0].grids[0].note


def test_the_centre_is_a_merge_without_learning():
    own = made(scores=False, history=False)
    run = replace(own, metrics={**own.metrics, "agreement": own.agreement | {"centre": own.agreement["learned"]}})
    assert "the centre (Isotropic), the best merge without learning, agrees on 90.0 %" in verdict(run)
    own = made()
    run = replace(own, metrics={**own.metrics, "agreement": own.agreement | {"centre": own.agreement["learned"]}})
    assert verdict(run).endswith("; the centre (Isotropic) was measured on held-out rows alone.")
    assert "the centre" not in verdict(own)
