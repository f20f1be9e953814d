"""Successive halving of merges."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamerge.calibration.race import Auto, passes, race, scales_in_time
from adamerge.types import ConfigError


@given(st.lists(st.floats(0, 9), min_size=1, max_size=17, unique=True), st.integers(1, 9), st.integers(1, 200))
def test_the_best_wins_where_rows_do_not_matter(values, first, most):
    worth = {str(value): value for value in values}
    asked = []

    def judge(name, rows):
        asked.append(rows)
        return worth[name]

    rounds = race([*worth], judge, first=first, most=most, seed=0)
    assert next(iter(rounds[-1].divergence)) == min(worth, key=worth.get)
    assert max(asked) <= most
    assert sum(asked) == passes(len(worth), first, most)
    for one, after in itertools.pairwise(rounds):
        assert after.rows == min(2 * one.rows, most)
        kept = -(-len(one.divergence) // 2)
        assert set(after.divergence) == set([*one.divergence][:kept])  # the better half goes on


def test_what_is_better_on_more_rows_only_is_lost_if_it_leaves_early():
    late = {"a": {8: 1, 16: 9}, "b": {8: 2, 16: 3}, "c": {8: 3, 16: 0}}
    rounds = race([*late], lambda name, rows: late[name][rows], first=8, most=16, seed=0)
    assert [[*one.divergence] for one in rounds] == [["a", "b", "c"], ["b", "a"]]


@given(st.integers(0, 500), st.integers(1, 32), st.integers(1, 9))
def test_all_scales_race_where_they_take_no_more_than_their_share_of_the_time(steps, batch, scales):
    auto = Auto(scales=[0.5 + 0.1 * number for number in range(scales)])
    found, share = scales_in_time(auto, 64, steps, batch)
    assert (found == auto.scales) == (share <= 0.15 or scales == 1)
    assert found == auto.scales or len(found) == 1
    assert share == pytest.approx(passes(1 + 6 * scales, 8, 64) / (3 * steps * batch) if steps else 0.0)


def test_ties_are_drawn_with_the_seed_and_not_by_position():
    winners = {next(iter(race("abcdef", lambda *_: 1.0, first=8, most=8, seed=s)[0].divergence)) for s in range(30)}
    assert len(winners) > 2
    one, again = ([*race("abcdef", lambda *_: 1.0, first=8, most=8, seed=4)[0].divergence] for _ in range(2))
    assert one == again


def test_what_is_not_a_number_comes_last():
    rounds = race("ab", lambda name, _: math.nan if name == "a" else 5.0, first=8, most=8, seed=0)
    assert [*rounds[0].divergence] == ["b", "a"]


@pytest.mark.parametrize(
    "options", [{"scales": []}, {"scales": [0.0]}, {"scales": [math.inf]}, {"rows": 0}, {"share": 0.0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=f"centre.{next(iter(options))}: expected"):
        Auto(**options)
