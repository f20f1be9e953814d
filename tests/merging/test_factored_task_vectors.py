"""Coefficients per rank component: combine and inner against autograd, and the whole way from YAML to an export."""

import pytest
import torch
from torch import Tensor

from adamerge.experts.low_rank import Adapted, Change, LowRank
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.grouping import component_wise, task_wise, tensor_wise
from adamerge.merging.task_vectors import AT_ONCE
from adamerge.storage.weights import InMemory, Weights

RANKS = {"wide": 4, "narrow": 2}


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


@pytest.fixture
def pool() -> tuple[InMemory, dict[str, Weights], dict[str, list[tuple[int, Tensor, Tensor]]]]:
    """A matrix, the stacked experts of a mixture and a bias; adapters of two ranks and a full checkpoint."""
    torch.manual_seed(0)
    base = InMemory({"w": drawn(5, 6), "e": drawn(3, 4, 6), "b": drawn(5)})
    adapters: dict[str, Weights] = {}
    factors: dict[str, list[tuple[int, Tensor, Tensor]]] = {"w": [], "e": []}
    for k, (task, rank) in enumerate(RANKS.items()):
        matrix, stack = LowRank(drawn(5, rank), drawn(rank, 6), 0.5), LowRank(drawn(3, 4, rank), drawn(3, rank, 6), 2.0)
        changes = {
            "w": Change(low_rank=lambda one=matrix: one),
            "e": Change(low_rank=lambda one=stack: one),
        }
        adapters[task] = Adapted(base, changes, {})
        factors["w"].append((k, 0.5 * matrix.left, matrix.right))
        factors["e"].append((k, 2.0 * stack.left, stack.right))
    full = InMemory({name: base[name] + drawn(*base.shape(name)) for name in base.headers})
    return base, {**adapters, "full": full}, factors


def by_autograd(base, experts, factors, grouping, coefficients):
    """Merged parameters as a sum over components, each with its own coefficient."""
    merged = {}
    for name in base.headers:
        own = coefficients[grouping.rows[name]]  # (n, K)
        merged[name] = base[name] + own[0, 2] * (experts["full"][name] - base[name])
        for k, left, right in factors.get(name, []):
            for i in range(left.shape[-1]):
                merged[name] = merged[name] + own[i, k] * left[..., i : i + 1] @ right[..., i : i + 1, :]
    return merged


def test_components_combine_and_project_as_autograd_does(pool):
    base, experts, factors = pool
    grouping = component_wise({"w": 4, "e": 4, "b": 1})
    vectors = Factored(experts, ["w", "e", "b"], base, base, torch.float64, per="component")
    coefficients = drawn(9, 3).requires_grad_()
    expected = by_autograd(base, experts, factors, grouping, coefficients)
    gradients = {name: drawn(*base.shape(name)) for name in base.headers}
    sum((gradients[name] * expected[name]).sum() for name in expected).backward()
    found = vectors.combine(coefficients, grouping)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach())
        exact = vectors.combine_exactly(name, coefficients, grouping.rows[name])
        torch.testing.assert_close(exact, value.detach())
    torch.testing.assert_close(vectors.inner(gradients, grouping), coefficients.grad)


def test_a_large_matrix_is_written_some_rows_at_a_time():
    torch.manual_seed(0)
    base, left, right = torch.randn(2200, 1000), torch.randn(2200, 1), torch.randn(1, 1000)
    own, full = InMemory({"w": base}), InMemory({"w": base + torch.randn_like(base)})
    adapter = Adapted(own, {"w": Change(low_rank=lambda: LowRank(left, right, 0.5))}, {})
    vectors = Factored({"low": adapter, "full": full}, ["w"], own, own)
    coefficients, groups = drawn(2, 2), torch.arange(2200) % 2  # a group of the even rows, and one of the odd ones
    changes = torch.stack([0.5 * left.double() @ right.double(), full["w"].double() - base])
    weights = coefficients[groups].T.unsqueeze(2)
    expected = base + (weights * changes).sum(0)
    products = torch.zeros(2)
    for part in vectors.exactly("w", coefficients, groups):
        assert part.merged.numel() <= AT_ONCE < base.numel()
        torch.testing.assert_close(part.merged, expected[part.rows])
        products = products + part.products(part.merged, False)[1, 0]
    torch.testing.assert_close(products, ((expected - base) * changes).sum((1, 2)), rtol=1e-5, atol=0)


def test_equal_coefficients_of_all_components_are_those_of_the_tensor(pool):
    base, experts, _ = pool
    names = ["w", "e", "b"]
    rows = Factored(experts, names, base, base, torch.float64)
    parts, grouping = rows.by_component(), component_wise({"w": 4, "e": 4, "b": 1})
    per_tensor = drawn(3, 3)
    per_component = per_tensor[torch.tensor([0] * 4 + [1] * 4 + [2])]
    one, other = rows.combine(per_tensor, tensor_wise(names)), parts.combine(per_component, grouping)
    for name in names:
        torch.testing.assert_close(one[name], other[name])
        torch.testing.assert_close(rows.stack(name), parts.stack(name))
    torch.testing.assert_close(
        parts.combine(per_tensor[:1], task_wise(names))["e"], rows.combine(per_tensor[:1], task_wise(names))["e"]
    )
