"""Intervals without drawing rows are those of a bootstrap that draws them."""

import numpy as np
import pytest

from adamerge.results.interval import interval, interval_of_mean


@pytest.mark.parametrize(("right", "rows"), [(31, 40), (150, 200), (3, 16), (0, 10), (10, 10)])
def test_the_interval_is_that_of_resampled_rows(right, rows):
    outcomes = np.repeat([1.0, 0.0], [right, rows - right])
    draws = np.random.default_rng(1).choice(outcomes, (20_000, rows)).mean(1)
    assert interval(right / rows, rows) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1.01 / rows)


def test_the_interval_of_a_mean_is_narrower():
    random = np.random.default_rng(2)
    draws = np.mean([random.choice(np.repeat([1.0, 0.0], [60, 40]), (20_000, 100)).mean(1) for _ in range(4)], axis=0)
    assert interval_of_mean([(0.6, 100)] * 4) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.006)
