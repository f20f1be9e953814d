"""Cosines with whole experts against their definition, for every grouping, plain and transformed."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.grouping import block_wise, row_blocks, task_wise, tensor_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.resident_task_vectors import Resident
from adamerge.storage.weights import InMemory

SHAPES = {"layer.0.w": (6, 5), "layer.0.b": (6,), "layer.1.w": (4, 6), "scale": ()}
GROUPINGS = {
    "task": task_wise(list(SHAPES)),
    "block": block_wise(list(SHAPES)),
    "tensor": tensor_wise(list(SHAPES)),
    "rows": row_blocks(SHAPES, 3),
}


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def rows_of(tensor, index, group):
    """The part of a tensor that a group governs, flat."""
    return tensor.flatten() if len(index) == 1 else tensor[index == group].flatten()


@pytest.mark.parametrize("kind", [lambda mapped: mapped, Resident], ids=["mapped", "resident"])
@pytest.mark.parametrize("name", GROUPINGS)
def test_cosines_are_those_of_the_definition(name, kind):
    grouping = GROUPINGS[name]
    base, experts, gradient = draw(0), [draw(1), draw(2)], draw(3)
    gradient["layer.1.w"][:2] = 0.0  # whose cosine counts as zero
    weights = {str(number): InMemory(tensors) for number, tensors in enumerate(experts)}
    vectors = kind(Mapped(weights, list(SHAPES), InMemory(base), InMemory(base), torch.float64))
    found = ExpertCosines(vectors, grouping)(gradient)
    expected = torch.zeros(len(grouping), 3, dtype=torch.float64)
    for column, model in enumerate([*experts, base]):
        for parameter, index in grouping.rows.items():
            for group in index.unique().tolist():
                pair = (rows_of(tensors[parameter], index, group) for tensors in (gradient, model))
                expected[group, column] += cosine_similarity(*pair, dim=0)
    torch.testing.assert_close(found, expected)
    without = ExpertCosines(vectors, grouping)({"scale": gradient["scale"]})
    assert (without != 0).any(1).sum() == 1
