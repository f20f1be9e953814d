"""A verdict from held-out rows alone."""

import numpy as np
import pytest
import torch

from adamerge.calibration.row_scores import RowScores
from adamerge.results.no_labels import difference, held_out_table, verdict


def scores(diverged, same=None):
    """Row scores of one task with a prediction a row."""
    diverged = torch.as_tensor(diverged, dtype=torch.float64)
    return RowScores(torch.ones_like(diverged), torch.ones_like(diverged) if same is None else same, diverged)


def noise(seed, rows=64):
    return np.random.default_rng(seed).normal(size=rows)


def test_pairs_are_resampled_together():
    """A constant gain is certain however much rows differ; unpaired it would drown."""
    hard = 5 + noise(0)
    found = difference({"a": scores(hard)}, {"a": scores(hard + 0.1)}, "divergence")
    assert found == pytest.approx((0.1, 0.1, 0.1, 1.0))


def test_the_interval_is_that_of_the_mean_of_differences():
    """For one task, the bootstrap of a mean is normal with the standard error of the rows."""
    one, other = 5 + noise(1, 400), 5.2 + noise(2, 400)
    found = difference({"a": scores(one)}, {"a": scores(other)}, "divergence")
    error = (other - one).std() / 400**0.5
    assert found.mean == pytest.approx((other - one).mean())
    assert (found.low, found.high) == pytest.approx(
        (found.mean - 1.96 * error, found.mean + 1.96 * error), abs=0.2 * error
    )


def test_every_task_counts_alike():
    many, few = np.zeros(200), np.zeros(10)
    found = difference({"a": scores(many), "b": scores(few)}, {"a": scores(many + 0.2), "b": scores(few)}, "divergence")
    assert found.mean == pytest.approx(0.1)


def test_agreement_is_of_all_predictions_of_a_row():
    one = RowScores(torch.tensor([2.0, 1.0]), torch.tensor([2.0, 0.0]), torch.zeros(2))
    other = RowScores(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]), torch.zeros(2))
    assert difference({"a": one}, {"a": other}, "agreement").mean == pytest.approx(1 / 3)


def test_the_sentence_names_the_best_and_says_whether_rows_can_tell():
    hard = 5 + noise(3)
    judged = {"average": {"a": scores(hard + 0.1)}, "learned": {"a": scores(hard)}}
    found = verdict(judged, "divergence", [])
    assert "best by divergence on held-out rows is the exported merge" in found
    assert "0.1 nats worse (95 % interval 0.1 nats to 0.1 nats), better in 100 % of resamples" in found
    alike = {"average": {"a": scores(hard + 0.1 * noise(4))}, "learned": {"a": scores(hard + 0.1 * noise(5))}}
    assert "cannot tell them apart" in verdict(alike, "divergence", [])


@pytest.mark.parametrize(
    ("flattered", "words"),
    [
        ([], "; these rows chose nothing."),
        (["b"], "; those of b chose step and scale, which flatters both."),
        (["a", "b"], "; the same rows chose step and scale, which flatters both."),
    ],
)
def test_the_sentence_says_which_rows_chose(flattered, words):
    judged = {key: {task: scores(5 + noise(seed)) for task in "ab"} for seed, key in enumerate(("average", "learned"))}
    assert verdict(judged, "divergence", flattered).endswith(words)


def test_the_table_has_a_line_for_each_merge():
    judged = {"average": {"a": scores(5 + noise(6))}, "learned": {"a": scores(5 + noise(7))}}
    assert held_out_table(judged, "divergence").row_count == 2
