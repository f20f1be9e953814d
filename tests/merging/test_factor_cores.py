"""What is computed from factors is what is computed from the dense task vectors."""

import pytest
import torch

from adamerge.calibration.closed_form import row_products
from adamerge.experts.low_rank import Adapted, Change, LowRank
from adamerge.merging import factor_cores
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.factor_algebra import column_basis, svd_of_product
from adamerge.merging.factor_cores import cores_of
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.grouping import row_blocks
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.storage.weights import InMemory
from adamerge.transforms import ActMat, Aswudi, DcMerge, Isotropic, Swudi, TaskSingularVectors, Wudi
from adamerge.transforms.stored import merged_at_once, transformed

SHAPES = {"wide.weight": (20, 40), "tall.weight": (40, 24), "conv.weight": (24, 6, 2, 2), "bias": (20,)}


def drawn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(shape, rank, seed):
    rows, columns = shape[0], torch.Size(shape).numel() // shape[0]
    factors = LowRank(drawn(rows, rank, seed=seed), drawn(rank, columns, seed=seed + 1), 0.25)
    return Change(low_rank=lambda: factors)


@pytest.fixture
def both():
    """Four experts as factors and as whole tensors: two share their directions, one leaves a tensor as it is."""
    base = InMemory({name: drawn(*shape, seed=n) for n, (name, shape) in enumerate(SHAPES.items())})
    experts = {}
    for k, rank in enumerate((1, 2, 3, 2)):
        names = [name for name in SHAPES if name != "bias" and (k, name) != (0, "tall.weight")]
        changes = {name: low_rank(SHAPES[name], rank, 10 + 7 * (k % 3) + n) for n, name in enumerate(names)}
        experts[f"e{k}"] = Adapted(base, changes, {})
    dense = {name: InMemory({n: weights[n] for n in SHAPES}) for name, weights in experts.items()}
    names = tuple(SHAPES)
    return Factored(experts, names, base, base), Mapped(dense, names, base, base), base


EXACT = [
    *(Isotropic(), Wudi(), Wudi(ridge=1.5), TaskSingularVectors()),
    *(Swudi(), Swudi(time=3.0, keep=0.02), Aswudi(), Aswudi("gavish_donoho"), ActMat(), ActMat(0.3)),
    *(DcMerge(), DcMerge("own", 0.3)),
]


@pytest.mark.parametrize("transform", EXACT, ids=repr)
def test_transforms_are_exact_in_the_space_of_the_factors(both, tmp_path, transform):
    factored, dense, base = both
    found = transformed(factored, base, transform, tmp_path / "found")
    expected = transformed(dense, base, transform, tmp_path / "expected")
    for name in SHAPES:
        torch.testing.assert_close(found.stack(name), expected.stack(name), rtol=1e-4, atol=1e-5)
    merged = [merged_at_once(v, transform, tmp_path / f"{i}.safetensors") for i, v in enumerate((factored, dense))]
    for name in SHAPES:
        torch.testing.assert_close(merged[0][name], merged[1][name], rtol=1e-4, atol=1e-5)


def test_no_dense_stack_is_made_where_the_space_is_small(both, tmp_path, monkeypatch):
    factored, _, base = both
    read = []
    monkeypatch.setattr(Factored, "stack", lambda self, name: read.append(name) or torch.zeros(4, *SHAPES[name]))
    transformed(factored, base, Wudi(), tmp_path / "found")
    assert set(read) == {"bias"}


def test_the_space_is_not_used_where_it_is_not_smaller(both, monkeypatch):
    factored, _, _ = both
    assert cores_of(factored, "wide.weight") is not None
    monkeypatch.setattr(factor_cores, "CHEAPER", 3)
    assert cores_of(factored, "wide.weight") is None


def test_task_vectors_are_their_cores_between_the_bases(both):
    factored, dense, _ = both
    for name in ("wide.weight", "tall.weight", "conv.weight"):
        left, cores, right = cores_of(factored, name)
        stack = dense.stack(name).flatten(2)
        torch.testing.assert_close((left @ cores @ right.T).float(), stack, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(left.T @ left, torch.eye(left.shape[1], dtype=torch.float64))


def test_norms_and_cosines_come_from_the_factors(both, monkeypatch):
    factored, dense, _ = both
    grouping = row_blocks(SHAPES, 3)
    gradients = {name: drawn(*shape, seed=50) for name, shape in SHAPES.items()}
    expected = ExpertCosines(dense, grouping)(gradients)
    norms = {name: dense.norms(name) for name in SHAPES}
    monkeypatch.setattr(Factored, "tiles", lambda *_: pytest.fail("a dense task vector was made"))
    torch.testing.assert_close(ExpertCosines(factored, grouping)(gradients), expected, rtol=1e-4, atol=1e-5)
    for name, value in norms.items():
        torch.testing.assert_close(factored.norms(name), value, rtol=1e-4, atol=1e-5)


def test_the_svd_of_a_product_is_that_of_the_dense_matrix():
    left, right = drawn(30, 5, seed=1), drawn(5, 20, seed=2)
    left = torch.cat([left, left[:, :2]], 1)
    right = torch.cat([right, right[:2]])
    u, sigma, v = svd_of_product(left, right)
    expected = torch.linalg.svdvals(left.double() @ right.double())
    assert len(sigma) == 5
    torch.testing.assert_close(sigma, expected[:5])
    torch.testing.assert_close((u * sigma) @ v.T, left.double() @ right.double())
    assert not len(svd_of_product(left, 0 * right).sigma)


def test_a_basis_ignores_the_size_of_columns():
    columns = drawn(10, 2, seed=3) * torch.tensor([1e-6, 1e6])
    assert column_basis([columns, columns[:, :1], 0 * columns]).shape == (10, 2)


@pytest.mark.parametrize("rows_at_once", [1, 10**6])
@pytest.mark.parametrize("name", ["wide.weight", "tall.weight"])
def test_products_with_a_gram_matrix_need_no_dense_task_vectors(both, monkeypatch, name, rows_at_once):
    factored, dense, _ = both
    monkeypatch.setattr(factor_cores, "ROWS_AT_ONCE", rows_at_once)
    inputs = drawn(50, SHAPES[name][1], seed=9).double()
    gram, stack = inputs.T @ inputs, dense.stack(name).double()
    expected = torch.einsum("jrd,de,lre->rjl", stack, gram, stack)
    monkeypatch.setattr(Factored, "stack", lambda *_: pytest.fail("dense task vectors were made"))
    found = list(row_products(factored, name, [gram, 2 * gram]))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[1], 2 * found[0])
