"""What decides which iterate is the best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamerge.data.schedule import held_out_notes, split_held_out
from adamerge.learning.keep_best import Watching, rank

LOOKS = st.fixed_dictionaries(
    {key: st.floats(0, 9, allow_subnormal=False) for key in ("divergence", "agreement", "objective")}
)


def best(history, monitor):
    return max(range(len(history)), key=lambda step: (rank(history[step], monitor), -step))


def test_divergence_decides_by_default_and_agreement_where_three_digits_are_the_same():
    assert Watching().monitor == "divergence"
    history = [
        {"divergence": 0.075, "agreement": 0.955, "objective": 1.0},
        {"divergence": 0.0541, "agreement": 0.951, "objective": 2.0},
        {"divergence": 0.05414, "agreement": 0.953, "objective": 3.0},
        {"divergence": 0.0544, "agreement": 0.954, "objective": 0.5},
    ]
    assert {monitor: best(history, monitor) for monitor in ("divergence", "agreement", "objective")} == {
        "divergence": 2,
        "agreement": 0,
        "objective": 3,
    }


@given(st.lists(LOOKS, min_size=2, max_size=6))
def test_the_best_by_divergence_is_within_a_hundredth_of_the_lowest(history):
    lowest = min(look["divergence"] for look in history)
    assert history[best(history, "divergence")]["divergence"] <= lowest * 1.01 + 1e-300


@given(st.integers(1, 300), st.floats(0, 0.9), st.integers(0, 40))
def test_a_task_with_enough_rows_holds_out_the_least_number(count, share, least):
    learn, held = split_held_out(count, share, 0, least)
    assert sorted(learn + held) == list(range(count))
    assert learn
    former = split_held_out(count, share, 0)[1]
    if share and count >= 2 * least:
        assert len(held) == max(least, len(former))
        assert set(former) <= set(held)
    else:
        assert held == former


@pytest.mark.parametrize(("rows", "said"), [(65, "32 of 65 rows"), (63, "16 of 63 rows"), (128, ""), (600, "")])
def test_it_is_said_where_the_share_does_not_count_or_rows_are_few(rows, said):
    found = "".join(held_out_notes({"mail": rows}, 0.25, 32))
    assert said in found
    assert bool(said) == bool(found)
    assert not held_out_notes({"mail": rows}, 0.0, 32)
