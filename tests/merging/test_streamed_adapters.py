"""Adapters one block at a time, against all of the model in memory, with coefficients per row, component and tensor."""

import pytest
import torch
from support.adapters import KINDS, LLAMA, experts_of, saved
from support.families import build
from support.parts import assert_parts
from support.streamed import apart, inputs_of, logits_of_rows

from adamerge.batch import Batch
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import component_wise, row_blocks, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors

POOL = ("all linear", "rslora with patterns", "dora", "token rows")


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Adapters of several kinds, and a complete checkpoint."""
    folder = tmp_path_factory.mktemp("streamed")
    places = {}
    for seed, kind in enumerate(POOL):
        base, places[f"t{seed}"], _ = saved(folder, LLAMA, KINDS[kind][1], seed)
    build(*LLAMA[:2], 7, **LLAMA[2]).save_pretrained(folder / "full")
    return experts_of(base, **places, full=folder / "full")


def of(kind, vectors):
    """Task vectors and a grouping of one kind."""
    if kind != "component":
        return vectors, row_blocks(vectors.shapes, 3) if kind == "rows" else tensor_wise(tuple(vectors.shapes))
    parts = vectors.by_component()
    return parts, component_wise({name: max(parts.ranks(name).values(), default=1) for name in parts.shapes})


@pytest.mark.parametrize("kind", ["tensor", "rows", "component"])
def test_parts_of_adapters_are_rows_of_the_whole(experts, kind):
    assert_parts(*of(kind, task_vectors(experts, experts.shared)))


@pytest.mark.parametrize("kind", ["tensor", "rows", "component"])
def test_streamed_adapters_are_those_in_memory(experts, kind):
    vectors, grouping = of(kind, task_vectors(experts, experts.shared))
    plain, streamed = (MergedModel(experts, vectors, grouping, blocks=blocks) for blocks in (None, ()))
    draw = torch.Generator().manual_seed(0)
    coefficients = torch.rand(len(grouping), len(experts.tasks), generator=draw) * 0.5
    batches = {task: [Batch(inputs_of("LlamaForCausalLM", None, 2, 1), torch.arange(2))] for task in ("t0", "full")}
    work = {task: [Work(one, logits_of_rows) for one in own] for task, own in batches.items()}
    expected = execution_of(plain).losses_and_gradient(coefficients, work, (1, -1))
    for _ in range(2):  # the second step knows which block is the last
        found = execution_of(streamed).losses_and_gradient(coefficients, work, (1, -1))
        assert apart(found.gradient, expected.gradient) < 1e-5
        assert all(apart(found.losses[task], value) < 1e-5 for task, value in expected.losses.items())
    with execution_of(plain).at(coefficients) as one, execution_of(streamed).at(coefficients) as other:
        for left, right in zip(one.outputs(batches), other.outputs(batches), strict=True):
            assert apart(right.outputs.logits, left.outputs.logits) < 1e-5
