"""combine and inner against autograd through a naive merge, for every grouping, resident and mapped."""

import pytest
import torch
from support.families import Tiny
from torch.func import functional_call

import adamerge.merging.task_vectors as module
from adamerge.experts.from_modules import from_modules
from adamerge.merging.grouping import block_wise, row_blocks, task_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.task_vectors import matrix_shape

GROUPINGS = {
    "task": lambda shapes: task_wise(list(shapes)),
    "block": lambda shapes: block_wise(list(shapes)),
    "tensor": lambda shapes: tensor_wise(list(shapes)),
    "two row blocks": lambda shapes: row_blocks(shapes, 2),
    "every row": lambda shapes: row_blocks(shapes, 10**6),
}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


def naive(base, experts, coefficients, grouping):
    """The merge as its formula says, one autograd operation after the other."""
    merged = {}
    for name, value in base.named_parameters():
        rows = grouping.rows[name]
        total = value.detach().clone()
        for k, expert in enumerate(experts):
            vector = dict(expert.named_parameters())[name].detach() - value.detach()
            weight = coefficients[rows, k]
            total = total + (weight.reshape(-1, *[1] * (value.ndim - 1)) if len(rows) > 1 else weight) * vector
        merged[name] = total.reshape(value.shape)
    return merged


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("scratch", [7, 2**20])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_gradient_is_autograd_through_a_naive_merge(monkeypatch, dtype, resident, scratch, grouping):
    monkeypatch.setattr(module, "SCRATCH", scratch)  # small enough to cut rows and columns
    base, experts = Tiny(0, dtype), [Tiny(1, dtype), Tiny(2, dtype), Tiny(3, dtype)]
    together = from_modules(base, {str(k): expert for k, expert in enumerate(experts)})
    vectors = task_vectors(together, together.shared, resident=resident, dtype=dtype)
    groups = GROUPINGS[grouping](vectors.shapes)
    model = MergedModel(together, vectors, groups)
    torch.manual_seed(4)
    coefficients = torch.randn(len(groups), 3, dtype=dtype)
    x, deep = torch.randn(4, 6, dtype=dtype), torch.ones(1)

    merged = model.merge(coefficients)
    for task, inputs in (("0", {"x": x}), ("1", {"x": 2 * x}), ("2", {"x": x, "deep": deep})):
        model.forward(task, merged, inputs).logits.square().mean().backward()
    found = model.gradient(merged)

    free = coefficients.clone().requires_grad_()
    parameters = naive(base, experts, free, groups)
    for inputs in ({"x": x}, {"x": 2 * x}, {"x": x, "deep": deep}):
        functional_call(base, parameters, (), inputs).square().mean().backward(retain_graph=True)
    assert free.grad.abs().max() > 0.01
    torch.testing.assert_close(
        found, free.grad, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * free.grad.abs().max().item()
    )
    for name, value in parameters.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-6)


def test_a_parameter_that_no_task_touches_has_gradient_zero():
    together = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})
    model = MergedModel(together, task_vectors(together, together.shared), tensor_wise(together.shared))
    merged = model.merge(torch.full((len(together.shared), 2), 0.3))
    model.forward("a", merged, {"x": torch.ones(1, 6)}).logits.sum().backward()
    gradient = dict(zip(model.grouping.groups, model.gradient(merged), strict=True))
    assert gradient["side.weight"].tolist() == [0.0, 0.0]
    assert gradient["first.weight"].abs().min() > 0


def test_tied_weights_have_one_coefficient_and_stay_tied():
    together = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})
    assert "second.weight" in together.shared
    assert "again.weight" not in together.shared


def test_stack_is_expert_minus_base(monkeypatch):
    monkeypatch.setattr(module, "SCRATCH", 7)
    base, one, two = Tiny(0), Tiny(1), Tiny(2)
    together = from_modules(base, {"a": one, "b": two})
    mapped = task_vectors(together, together.shared, resident=False)
    for name, stack in mapped.stacks():
        original = dict(base.named_parameters())[name]
        expected = torch.stack([dict(e.named_parameters())[name] - original for e in (one, two)])
        assert torch.equal(stack, expected.detach())


def test_auto_is_resident_where_twice_the_stacks_fit():
    together = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})
    needed = 2 * 4 * sum(together.base.shape(n).numel() for n in together.shared)
    kinds = [type(task_vectors(together, together.shared, room=room)).__name__ for room in (2 * needed, 2 * needed + 1)]
    assert kinds == ["Mapped", "Resident"]


def test_matrix_shape_of_a_scalar():
    assert matrix_shape(torch.Size([])) == (1, 1)


class Numbers(torch.nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values))


@pytest.mark.parametrize("resident", [True, False])
def test_exact_corners_hold_for_numbers_of_any_size(resident):
    base = Numbers([[1.0, -3.0, 2.0], [1e30, 5.0, -0.0]])
    small = Numbers([[1.2345678e-12, 3.3e-20, -0.0], [0.0, 1e-45, 7.0]])
    other = Numbers([[1e20, 1.0, 4.0], [2.0, -1e-30, 1.0]])
    together = from_modules(base, {"small": small, "other": other})
    vectors = task_vectors(together, together.shared, resident=resident)
    for column, expected in ((0, small), (1, other), (None, base)):
        coefficients = torch.zeros(1, 2)
        if column is not None:
            coefficients[0, column] = 1
        found = vectors.combine_exactly("values", coefficients, torch.tensor([0])).float()
        assert torch.equal(found.view(torch.int32), expected.values.detach().view(torch.int32))  # -0.0 too


def test_exact_combine_of_rows_is_the_formula():
    base, one, two = Tiny(0), Tiny(1), Tiny(2)
    together = from_modules(base, {"a": one, "b": two})
    vectors = task_vectors(together, together.shared)
    groups = row_blocks(vectors.shapes, 3)
    coefficients = torch.randn(len(groups), 2)
    expected = naive(base.double(), [one.double(), two.double()], coefficients.double(), groups)
    for name, value in expected.items():
        found = vectors.combine_exactly(name, coefficients, groups.rows[name])
        torch.testing.assert_close(found, value.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("resident", [True, False])
def test_mixed_precision_leaves_sums_over_experts_alone(resident):
    together = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})
    vectors = task_vectors(together, together.shared, resident=resident)
    groups = tensor_wise(together.shared)
    gradients = {name: torch.randn(shape) for name, shape in vectors.shapes.items()}
    coefficients = torch.randn(len(groups), 2)
    inner, merged = vectors.inner(gradients, groups), vectors.combine(coefficients, groups)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vectors.inner(gradients, groups), inner)
        for name, value in vectors.combine(coefficients, groups).items():
            assert torch.equal(value, merged[name])
