"""Merges in fp64, window by window, against the sums that they are."""

import pytest
import torch

from adamerge.merging import exact
from adamerge.merging.exact import Term, merge_exactly


def drawn(*weights, dtype=torch.bfloat16):
    """Matrices of fine-tuned models, one a weight, which is a number or one of each row."""
    start = torch.randn(6, 10)
    terms = []
    for weight in weights:
        own = torch.tensor(weight, dtype=torch.float64).view(-1, 1)
        terms.append(Term((start + 1e-2 * torch.randn(6, 10)).to(dtype), own))
    return terms


def whole(parts):
    merged = torch.full((6, 10), torch.nan, dtype=torch.float64)
    for part in parts:
        merged[part.rows, part.columns] = part.merged
    return merged


@pytest.mark.parametrize("room", [5, 6 * 13, 2**19])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("by_row", [False, True])
def test_parts_are_the_sum_and_its_products(room, apart, by_row, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(exact, "_ROOM", room)
    rows = [0.3, 0.0, -0.2, 1.0, 0.0, 0.5]
    centre, a, b, c, base = drawn(1.0, 0.25, rows, 0.0, -0.5)
    of = (centre, [a, b, c], base if apart else None)
    expected = sum(term.weight * term.values.double() for term in (centre, a, b, *([base] if apart else [])))
    torch.testing.assert_close(whole(merge_exactly(*of, subtracts=True)), expected, rtol=0, atol=1e-15)
    subtracted = base if apart else centre
    vectors = torch.stack([term.values.double() - subtracted.values.double() for term in (a, b, c)])
    vectors[2] = 0  # c takes no part
    found = torch.zeros(2, 6 if by_row else 1, 3, dtype=torch.float64)
    rounded = expected.to(torch.bfloat16)
    for part in merge_exactly(*of, subtracts=True):
        place = found[:, part.rows] if by_row else found
        place += part.products(rounded[part.rows, part.columns], by_row)
    moved = torch.stack([rounded.double(), expected]) - centre.values.double()
    truth = torch.einsum("vrm,krm->vrk", moved, vectors)
    torch.testing.assert_close(found, truth if by_row else truth.sum(1, keepdim=True), rtol=1e-9, atol=1e-12)


def test_terms_of_weight_zero_take_no_part():
    torch.manual_seed(0)
    centre, a, b = drawn(0.0, [1.0] * 5 + [0.0], [0.0] * 5 + [1.0])
    centre.values.fill_(torch.nan)
    a.values[5], b.values[:5], a.values[0, 0] = torch.inf, torch.inf, -0.0
    merged = whole(merge_exactly(centre, [a, b], None, subtracts=True))
    assert torch.equal(merged, torch.cat([a.values[:5], b.values[5:]]).double())
    assert merged[0, 0].signbit()
