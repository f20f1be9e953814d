"""What decides which iterate is the best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamerge.data.schedule import held_out_notes, held_out_rows, split_held_out
from adamerge.data.settings import Batching
from adamerge.experts.experts import KEEP
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


@given(st.integers(1, 300), st.floats(0, 0.9), st.integers(0, 40), st.none() | st.integers(40, 90))
def test_a_task_with_enough_rows_holds_out_a_number_between_the_limits(count, share, least, most):
    how, plain = Batching(held_out=share, least_held_out=least, most_held_out=most), Batching(held_out=share)
    learn, held = split_held_out(count, how.held_out_of(count), 0)
    assert sorted(learn + held) == list(range(count))
    assert learn
    former = split_held_out(count, plain.share_of(count), 0)[1]
    limited = former if most is None else former[:most]
    if share and count >= 2 * least:
        assert len(held) == max(least, len(limited))
    else:
        assert len(held) == len(limited)
    assert set(former) <= set(held) or set(held) <= set(former)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([65], "32 of 65 rows"), ([63], "16 of 63 rows"), ([128], ""), ([400], ""), ([600], "100 of 600 rows"),
        ([63, 400], "none of 63 rows"), ([63, 20], "16 of 63 rows of 0, 5 of 20 rows"),
    ],
)  # fmt: skip
def test_it_is_said_where_the_share_does_not_count_or_rows_are_few(rows, said):
    counts = {str(task): count for task, count in enumerate(rows)}
    found = "".join(held_out_notes(counts, Batching(most_held_out=100)))
    assert said in found
    assert bool(said) == bool(found)
    assert not held_out_notes(counts, Batching(held_out=0.0))


@given(st.dictionaries(st.sampled_from(["a", "b", "c", KEEP]), st.integers(1, 700)), st.integers(0, 40))
def test_a_task_with_few_rows_holds_out_none_where_others_can(counts, least):
    how = Batching(least_held_out=least)
    found = {task: own.all for task, own in held_out_rows(counts, how).items()}
    some = any(count >= 2 * least for task, count in counts.items() if task != KEEP)
    for task, count in counts.items():
        few = some and count < 2 * least and task != KEEP
        assert found[task] == (0 if few else how.held_out_of(count))
        assert found[task] < count
