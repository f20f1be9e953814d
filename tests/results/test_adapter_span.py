"""Dense changes whose columns or rows are in the span of factors, as products of factors; and those that leave it."""

import pytest
import torch

from adamerge.experts.low_rank import LowRank
from adamerge.experts.matrix_layouts import Layout
from adamerge.results.adapter_span import projection

DRAW = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(shape, generator=DRAW, dtype=torch.float64)


def halves(factor, dim, *, interleaved):
    """Both halves of a factor as factors, each zero in the rows of the other."""
    first = torch.zeros_like(factor)
    own = [slice(None)] * factor.ndim
    own[dim] = slice(0, None, 2) if interleaved else slice(factor.shape[dim] // 2)
    first[tuple(own)] = factor[tuple(own)]
    return first, factor - first


LEFT, RIGHT = drawn(3, 12, 2), drawn(3, 2, 10)
FACTORS = [LowRank(LEFT[..., :1], RIGHT[:, :1], 1.0), LowRank(LEFT[..., 1:], RIGHT[:, 1:], 1.0)]
OUTER = Layout(stacked=True, parts=2)
INSIDE = {
    "columns": (LEFT @ drawn(3, 2, 10), None, 2),
    "rows, as where inputs come first": (drawn(3, 12, 2) @ RIGHT, None, 2),
    "columns of gate and up by themselves": (
        sum(half @ drawn(3, 2, 10) for half in halves(LEFT, 1, interleaved=False)),
        OUTER,
        4,
    ),
    "interleaved": (
        sum(half @ drawn(3, 2, 10) for half in halves(LEFT, 1, interleaved=True)),
        OUTER._replace(interleaved=True),
        4,
    ),
    "rows of gate and up by themselves": (
        sum(drawn(3, 12, 2) @ half for half in halves(RIGHT, 2, interleaved=False)),
        OUTER._replace(transposed=True),
        4,
    ),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_a_change_in_the_span_is_a_product_of_factors(kind):
    change, layout, rank = INSIDE[kind]
    term, outside = projection(change, FACTORS, layout, 1e-9)
    assert outside < 1e-9
    assert term.left.shape == (3, 12, rank)
    torch.testing.assert_close(term.left @ term.right, change)


def test_what_is_outside_is_measured():
    """The distance from the space of the columns, by least squares."""
    change = LEFT @ drawn(3, 2, 10) + 0.1 * drawn(3, 12, 10)
    best = torch.linalg.lstsq(LEFT, change).solution
    _, outside = projection(change, FACTORS, None, 1e-9)
    assert outside == pytest.approx((change - LEFT @ best).norm().item())


def test_nothing_is_in_the_span_of_no_factors():
    change = drawn(1, 4, 5)
    assert projection(change, [], None, 1e-9)[1] == pytest.approx(change.norm().item())
