"""Task vectors that travel to the device through a ring of slots: the same numbers as those that are mapped.

On a machine without a GPU the ring's memory is ordinary; test_cuda.py runs it with pinned memory and streams.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.naive_merge import GROUPINGS

from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.pinned_task_vectors import SLOTS, Pinned
from adamerge.storage.weights import InMemory

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@st.composite
def sources(draw):
    """Mapped task vectors of random shapes and dtypes, added to the base or to another centre, or plain ones."""
    shape = st.lists(st.integers(1, 5), max_size=3).map(tuple)
    shapes = {f"block.{i}.p": own for i, own in enumerate(draw(st.lists(shape, min_size=1, max_size=5)))}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def drawn() -> InMemory:
        dtype = draw(st.sampled_from(DTYPES))
        return InMemory({name: torch.randn(own, generator=generator).to(dtype) for name, own in shapes.items()})

    centre = drawn()
    base = draw(st.sampled_from([centre, None, drawn()]))
    return Mapped({f"expert{k}": drawn() for k in range(draw(st.integers(1, 4)))}, tuple(shapes), centre, base)


@settings(deadline=None, max_examples=60)
@given(sources(), st.sampled_from([1, 16, 100, 2**20]))
def test_the_ring_brings_the_numbers_of_the_files(source, slot_bytes):
    pinned = Pinned(source, slot_bytes)
    for name in source.shapes:
        assert torch.equal(pinned.stack(name), source.stack(name))
    for bundle in pinned.bundles:
        assert torch.equal(pinned.stack_of(bundle), torch.cat([source.stack_of((name,)) for name in bundle], 1))


@pytest.mark.parametrize("grouping", sorted(GROUPINGS))
def test_combine_and_inner_are_the_sums_of_their_formulas(grouping):
    shapes = {"a": (6, 5), "b": (7,), "c": (3, 2, 2)}
    generator = torch.Generator().manual_seed(0)
    tensors = [{name: torch.randn(own, generator=generator) for name, own in shapes.items()} for _ in range(4)]
    base, *experts = map(InMemory, tensors)
    source = Mapped({str(k): expert for k, expert in enumerate(experts)}, tuple(shapes), base, base)
    groups = GROUPINGS[grouping](shapes)
    coefficients = torch.randn(len(groups), 3, generator=generator)
    pinned = Pinned(source, 24)  # two numbers of each expert
    assert len(list(pinned.tiles(pinned.bundles))) > SLOTS  # so that every slot is used again
    for name, merged in pinned.combine(coefficients, groups).items():
        assert torch.allclose(merged, source.combine(coefficients, groups)[name], atol=1e-6)
    inner, expected = pinned.inner(tensors[1], groups), source.inner(tensors[1], groups)
    assert torch.allclose(inner, expected, atol=1e-5)
    assert pinned.digest() == source.digest()
