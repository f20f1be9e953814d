"""Rounding against the table of all 16-bit numbers, in exact fractions."""

from bisect import bisect_right
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamerge.merging.rounding import Rounding, check_fits, round_at_random, round_to_nearest
from adamerge.types import ConfigError

HALVES = (torch.bfloat16, torch.float16)


def all_numbers(dtype):
    """Every finite number of a 16-bit dtype that is not negative; its index is its bits."""
    bits = torch.arange(2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(dtype).double()
    return values[values.isfinite()].tolist()


NUMBERS = {dtype: all_numbers(dtype) for dtype in HALVES}


def nearest(value, dtype):
    """The closest number of the table; of two, the one with even bits."""
    numbers, size = NUMBERS[dtype], abs(value)
    low = bisect_right(numbers, size) - 1
    if low + 1 == len(numbers):
        return None  # beyond the largest: overflow is tested apart
    below, above = (abs(Fraction(size) - Fraction(numbers[i])) for i in (low, low + 1))
    index = low if below < above or (below == above and low % 2 == 0) else low + 1
    return numbers[index] if value > 0 else -numbers[index]


def beside_the_middle(dtype):
    """Numbers at, just below and just above the middle of two neighbours."""
    index = st.integers(0, len(NUMBERS[dtype]) - 2)
    shift = st.sampled_from([-1, 0, 1])

    def number(i, s, sign, power):
        low, high = NUMBERS[dtype][i], NUMBERS[dtype][i + 1]
        middle = (low + high) / 2
        return sign * (middle + s * (high - low) * 2.0**-power)

    return st.builds(number, index, shift, st.sampled_from([-1, 1]), st.integers(2, 42))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@given(data=st.data())
def test_nearest_is_the_nearest_of_all_numbers(dtype, data):
    limit = NUMBERS[dtype][-1]
    value = data.draw(st.one_of(beside_the_middle(dtype), st.floats(-limit, limit)))
    found = round_to_nearest(torch.tensor(value, dtype=torch.float64), dtype).item()
    assert found == nearest(value, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@given(data=st.data())
def test_random_rounding_takes_one_of_two_neighbours_and_keeps_what_is_exact(dtype, data):
    number = data.draw(st.one_of(beside_the_middle(dtype), st.sampled_from(NUMBERS[dtype])))
    drawn = round_at_random(torch.full((50,), number, dtype=torch.float64), dtype, torch.Generator().manual_seed(1))
    numbers = NUMBERS[dtype]
    low = numbers[bisect_right(numbers, abs(number)) - 1]
    high = numbers[min(bisect_right(numbers, abs(number)), len(numbers) - 1)]
    allowed = {low} if low == abs(number) else {low, high}
    assert set(drawn.double().abs().tolist()) <= allowed


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_random_rounding_is_exact_on_average(dtype, share):
    low, high = 1.0, round_to_nearest(torch.tensor(1 + torch.finfo(dtype).eps), dtype).item()
    values = torch.full((200_000,), -(low + share * (high - low)), dtype=torch.float64)
    drawn = round_at_random(values, dtype, torch.Generator().manual_seed(0)).double()
    deviation = (share * (1 - share) / len(values)) ** 0.5
    assert abs((drawn.mean().item() + low) / (low - high) - share) < 4 * deviation


@pytest.mark.parametrize("mode", ["nearest", "stochastic"])
def test_numbers_that_are_no_numbers_stay(mode):
    rounding = Rounding(mode, {"w": torch.bfloat16})
    values = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan")], dtype=torch.float64)
    torch.testing.assert_close(rounding("w", values).double(), values, rtol=0, atol=0, equal_nan=True)
    assert rounding("w", values).signbit().tolist()[:2] == [False, True]


def test_overflow_is_infinite_to_nearest():
    values = torch.tensor([65519.0, 65520.0, 1e300, -1e300], dtype=torch.float64)
    assert round_to_nearest(values, torch.float16).tolist() == [65504, *map(float, ("inf", "inf", "-inf"))]


@pytest.mark.parametrize("mode", ["nearest", "stochastic"])
@pytest.mark.parametrize(("largest", "fits"), [(65519.0, True), (7e4, False), (-1e9, False), (float("inf"), True)])
def test_finite_numbers_that_become_infinite_are_refused_by_name(mode, largest, fits):
    values = torch.tensor([1.0, largest, float("nan")], dtype=torch.float64)
    written = Rounding(mode, {"layer.weight": torch.float16}, 1)("layer.weight", values)
    if fits:
        assert largest == float("inf") or written[:2].isfinite().all()
        check_fits("layer.weight", values, written)
        return
    with pytest.raises(ConfigError) as refused:
        check_fits("layer.weight", values, written)
    for word in ("layer.weight: ", "at most 65504, which float16", f"{abs(largest):g}", "out_dtype: bfloat16"):
        assert word in str(refused.value)


def test_random_numbers_depend_on_seed_and_name_alone():
    values = torch.rand(1000, dtype=torch.float64)
    dtypes = dict.fromkeys("ab", torch.bfloat16)
    first = Rounding("stochastic", dtypes, 1)
    b = first("b", values)
    assert torch.equal(first("a", values), Rounding("stochastic", dtypes, 1)("a", values))
    assert torch.equal(first("b", values), b)
    assert not torch.equal(first("a", values), first("b", values))
    assert not torch.equal(first("a", values), Rounding("stochastic", dtypes, 2)("a", values))


def test_what_is_written_in_32_bits_is_not_drawn():
    values = torch.rand(100, dtype=torch.float64)
    assert torch.equal(Rounding("stochastic", {"w": torch.float32})("w", values), values.float())


def test_as_written_has_the_dtype_of_the_computation():
    values = torch.tensor([1.001, 2.0])
    assert Rounding("nearest", {"w": torch.bfloat16}).as_written("w", values).tolist() == [1.0, 2.0]
    assert Rounding("nearest", {"w": torch.float32}).as_written("w", values) is values
