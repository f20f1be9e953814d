"""combine and inner against naive sums over random shapes, groupings and tile sizes, resident and mapped."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.families import Tiny, random_vectors
from support.naive_merge import GROUPINGS, naive
from support.parts import assert_parts

from adamerge.experts.from_modules import from_modules
from adamerge.merging import mapped_task_vectors
from adamerge.merging.grouping import row_blocks, tensor_wise
from adamerge.merging.matrices import matrix_shape
from adamerge.merging.merged_model import task_vectors
from adamerge.merging.resident_task_vectors import Resident
from adamerge.storage.weights import MappedFiles


@st.composite
def problems(draw):
    """Random shapes, K, a grouping of each kind, and a tile size that may cut rows and columns."""
    shape = st.lists(st.integers(1, 5), max_size=3).map(tuple)
    shapes = {f"block.{i}.p": own for i, own in enumerate(draw(st.lists(shape, min_size=1, max_size=4)))}
    groups = draw(st.sampled_from(sorted(GROUPINGS)))
    return shapes, draw(st.integers(1, 4)), GROUPINGS[groups](shapes), draw(st.sampled_from([1, 3, 7, 2**20]))


def group_of(groups, name, row):
    """The group of one row of a parameter."""
    rows = groups.rows[name].tolist()
    return rows[row] if len(rows) > 1 else rows[0]


@settings(deadline=None, max_examples=60)
@given(problems())
def test_every_row_of_every_parameter_is_in_exactly_one_group(problem):
    shapes, _, groups, _ = problem
    assert groups.rows.keys() == shapes.keys()
    governed = [0] * len(groups)
    for name, shape in shapes.items():
        rows, index = matrix_shape(torch.Size(shape))[0], groups.rows[name]
        assert index.shape in ((1,), (rows,))
        for group in index.tolist():
            governed[group] += 1
    assert all(governed)  # no group is empty
    assert len(set(groups.groups)) == len(groups)
    assert {name for names in groups.members().values() for name in names} == set(shapes)


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from(["mapped", "resident", "resident, shapes together"]), st.integers(0, 2**20))
def test_combine_and_inner_are_the_sums_of_their_formulas(problem, kind, seed):
    shapes, count, groups, scratch = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped_task_vectors, "SCRATCH", scratch)
        mapped = random_vectors(shapes, count)
        vectors = mapped if kind == "mapped" else Resident(mapped, together="together" in kind)
        generator = torch.Generator().manual_seed(seed)
        coefficients = torch.randn(len(groups), count, generator=generator)
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        merged, inner = vectors.combine(coefficients, groups), vectors.inner(gradients, groups)
    expected_inner = torch.zeros(len(groups), count, dtype=torch.float64)
    for name, shape in shapes.items():
        rows = matrix_shape(torch.Size(shape))[0]
        centre, gradient = (t.double().reshape(rows, -1) for t in (vectors.centre(name), gradients[name]))
        stack = torch.stack([source[name].double() for source in mapped._weights]) - vectors.centre(name).double()
        stack = stack.reshape(count, rows, -1)
        for row in range(rows):
            group = group_of(groups, name, row)
            expected = centre[row] + sum(coefficients[group, k].double() * stack[k, row] for k in range(count))
            torch.testing.assert_close(merged[name].reshape(rows, -1)[row].double(), expected, rtol=1e-4, atol=1e-4)
            for k in range(count):
                expected_inner[group, k] += (gradient[row] * stack[k, row]).sum()
    torch.testing.assert_close(inner.double(), expected_inner, rtol=1e-4, atol=1e-3)


@settings(deadline=None, max_examples=15)
@given(problems(), st.booleans())
def test_parts_are_rows_of_the_whole(problem, resident):
    shapes, count, groups, _ = problem
    mapped = random_vectors(shapes, count)
    assert_parts(Resident(mapped) if resident else mapped, groups)


def test_tensors_of_files_are_read_and_never_written(tmp_path):
    """Read again what safetensors returns as one writable view per name: a write into it would change later reads."""
    shapes = {"a": (6, 5), "b": (7,)}
    kept = [{name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(3)]
    files = []
    for number, tensors in enumerate(kept):
        save_file(tensors, tmp_path / f"{number}.safetensors")
        files.append(MappedFiles([tmp_path / f"{number}.safetensors"]))
    base, *experts = files
    vectors = mapped_task_vectors.Mapped(dict(zip("xy", experts, strict=True)), tuple(shapes), base, base)
    groups, coefficients = tensor_wise(tuple(shapes)), torch.rand(2, 2)
    for form in (vectors, Resident(vectors)):
        merged = form.combine(coefficients, groups)
        form.inner(merged, groups)
        for name in shapes:
            form.combine_exactly(name, coefficients, groups.rows[name])
    for file, tensors in zip(files, kept, strict=True):
        for name, tensor in tensors.items():
            assert torch.equal(file[name], tensor), name


def test_tied_weights_have_one_coefficient_and_stay_tied():
    together = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})
    assert "second.weight" in together.shared
    assert "again.weight" not in together.shared


def test_stack_is_expert_minus_base(monkeypatch):
    monkeypatch.setattr(mapped_task_vectors, "SCRATCH", 7)
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
