"""Budgets of chunks, importance, and the two stages."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from support.families import random_vectors

from adamerge.learning.course import spread
from adamerge.learning.stages import MeanProduct
from adamerge.merging.chunks import Chunks, allot, chunked, importance, importance_by_gradient, most_blocks
from adamerge.merging.grouping import row_blocks, tensor_wise
from adamerge.types import ConfigError


@pytest.mark.parametrize("total", [4, 5, 7, 10, 13, 17, 40])
def test_allotment_spends_the_budget_within_its_limits(total):
    shares, most = {"a": 0.6, "b": 0.25, "c": 0.1, "d": 0.05}, {"a": 5, "b": 7, "c": 1, "d": 4}
    counts = allot(shares, most, total)
    assert all(1 <= counts[name] <= most[name] for name in shares)
    assert sum(counts.values()) == min(total, sum(most.values()))


def test_allotment_is_the_largest_remainder():
    """Against Hamilton's method by its definition: quotas' floors, then the largest fractions; no limit binds."""
    shares = {"a": 0.46, "b": 0.33, "c": 0.21}
    for seats in range(1, 30):
        quota = {name: seats * share for name, share in shares.items()}
        expected = {name: int(value) for name, value in quota.items()}
        left = seats - sum(expected.values())
        for name in sorted(quota, key=lambda name: -(quota[name] % 1))[:left]:
            expected[name] += 1
        counts = allot(shares, dict.fromkeys(shares, 100), seats + 3)
        assert counts == {name: 1 + count for name, count in expected.items()}


def test_importance_by_its_formulas():
    vectors = random_vectors({"a": (3, 4), "b": (5,)}, 2)
    c = torch.tensor([[0.5, -0.2], [0.1, 0.3]])
    norms = {name: vectors.stack(name).flatten(1).norm(dim=1) for name in "ab"}
    expected = {
        "rms": {n: (c[i].abs() * norms[n]).sum() / s**0.5 for i, (n, s) in enumerate({"a": 12, "b": 5}.items())},
        "norm": {n: (c[i].abs() * norms[n]).sum() for i, n in enumerate("ab")},
        "energy": {n: (c[i] * norms[n]).square().sum() * s for i, (n, s) in enumerate({"a": 12, "b": 5}.items())},
    }
    for form, values in expected.items():
        found = importance(vectors, c, tensor_wise("ab"), form)
        assert sum(found.values()) == pytest.approx(1)
        assert found["a"] == pytest.approx((values["a"] / (values["a"] + values["b"])).item())
    assert importance_by_gradient(torch.tensor([3.0, 1.0]), tensor_wise("ab")) == {"a": 0.75, "b": 0.25}


def test_allocations_spend_the_same_budget():
    vectors = random_vectors({"a": (30, 4), "b": (40, 2), "c": (5,)}, 2)
    shares = {"a": 0.9, "b": 0.05, "c": 0.05}
    sizes = {
        allocation: len(chunked(vectors, Chunks(8, allocation), shares, 0, tensor_wise("abc")))
        for allocation in ("importance", "uniform", "random")
    }
    assert set(sizes.values()) == {24}
    uniform = chunked(vectors, Chunks(8, "uniform"), None, 0, tensor_wise("abc"))
    assert [len(uniform.rows[name].unique()) for name in "abc"] == [12, 11, 1]
    important = chunked(vectors, Chunks(8), shares, 0, tensor_wise("abc"))
    assert len(important.rows["a"].unique()) > 2 * len(important.rows["b"].unique())
    drawn = [chunked(vectors, Chunks(8, "random"), None, seed, tensor_wise("abc")).groups for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_spread_changes_no_merged_number():
    vectors = random_vectors({"a": (7, 4), "b": (5,), "c": (2, 3)}, 3)
    coarse, fine = tensor_wise("abc"), row_blocks(vectors.shapes, {"a": 3, "c": 2})
    c = torch.randn(3, 3)
    before, after = vectors.combine(c, coarse), vectors.combine(spread(c, coarse, fine), fine)
    assert all(torch.equal(before[name], after[name]) for name in "abc")


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(0, 99),
    st.floats(1.5, 5),
    st.sampled_from(["importance", "uniform", "random"]),
)
def test_a_finer_stage_divides_blocks_and_changes_no_merged_number(rows, seed, growth, allocation):
    shapes = {**{f"m{i}": (count, 2) for i, count in enumerate(rows)}, "v": (3,)}
    vectors, draw = random_vectors(shapes, 2), torch.Generator().manual_seed(seed)
    chunks, coarse = Chunks("auto", allocation, growth=growth, most=12), tensor_wise(tuple(shapes))
    for stage in (2, 3, 4):
        shares = {group: float(torch.rand((), generator=draw)) for group in coarse.groups}
        fine, c = chunked(vectors, chunks, shares, seed, coarse, stage), torch.randn(len(coarse), 2, generator=draw)
        before, after = vectors.combine(c, coarse), vectors.combine(spread(c, coarse, fine), fine)
        assert all(torch.equal(before[name], after[name]) for name in shapes)
        counts = {name: len(own.unique()) for name, own in fine.rows.items()}
        assert all(count <= min(12, shapes[name][0]) for name, count in counts.items())
        room = sum(most_blocks(vectors.shapes, chunks, coarse).values())
        assert (
            len(fine) == sum(counts.values()) == max(len(coarse), min(room, round(growth ** (stage - 1) * len(shapes))))
        )
        assert len(set(fine.groups)) == len(fine)
        assert all(own.tolist() == sorted(own.tolist()) for own in fine.rows.values())  # blocks are contiguous
        coarse = fine


def test_more_important_blocks_of_one_matrix_are_divided_more():
    vectors = random_vectors({"a": (40, 2)}, 2)
    coarse = row_blocks(vectors.shapes, 2)
    fine = chunked(vectors, Chunks("auto", growth=10), {"a[0:20]": 0.9, "a[20:40]": 0.1}, 0, coarse)
    first, second = (fine.rows["a"][part].unique() for part in (slice(20), slice(20, 40)))
    assert (len(first), len(second)) == (8, 2)


def test_mean_product_is_summed_and_kept():
    module = torch.nn.Module()
    module.coefficients = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    module.coefficients.grad = torch.tensor([[3.0, 0.5]])
    product = MeanProduct()
    for _ in range(2):
        product.on_before_optimizer_step(Trainer.__new__(Trainer), module, torch.optim.SGD([module.coefficients]))
    assert product.total.tolist() == [8.0]
    again = MeanProduct()
    again.load_state_dict(product.state_dict())
    assert again.total.tolist() == [8.0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"budget": 0.5}, "chunks.budget"),
        ({"most": 0}, "chunks.most"),
        ({"budget": "auto", "growth": 1.0}, "chunks.growth"),
        ({"budget": "auto", "least": 0.0}, "chunks.least"),
        ({"budget": "auto", "importance": "rms"}, "chunks.importance: expected gradient"),
        ({"first_steps": -1}, "chunks.first_steps"),
        ({"importance": "gradient", "first_steps": 0}, "importance: gradient"),
    ],
)
def test_bad_options(options, word):
    with pytest.raises(ConfigError, match=word):
        Chunks(**options)
