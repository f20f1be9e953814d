import io
import weakref

import pytest
import torch
from rich.console import Console
from support.families import Tiny

from adamerge.experts.from_modules import from_modules
from adamerge.merging.merged_model import task_vectors
from adamerge.transforms import Doge, Magnitude, Ties
from adamerge.transforms.stored import transformed


@pytest.fixture
def together():
    return from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})


def test_a_bar_is_shown_on_a_terminal_only(together, tmp_path):
    for terminal in (True, False):
        said = io.StringIO()
        console = Console(file=said, force_terminal=terminal, width=120)
        vectors = task_vectors(together, together.shared, resident=False)
        transformed(vectors, together.base, Ties(0.2), tmp_path / str(terminal), console=console)
        assert ("looking at task vectors" in said.getvalue()) is terminal
        assert ("transforming them" in said.getvalue()) is terminal


def test_what_stays_as_it_is_is_said(together, tmp_path):
    said = io.StringIO()
    vectors = task_vectors(together, together.shared, resident=False)
    console = Console(file=said, width=120)
    stored = transformed(vectors, together.base, Doge(exclude=("side",)), tmp_path / "kept", console=console)
    unchanged = [name for name, stack in stored.stacks() if not stack.any()]
    assert {"first.bias", "scale", "side.weight", "side.bias"} == set(unchanged)
    assert f"{len(unchanged)} of {len(vectors.shapes)} parameters stay as they are: {', '.join(unchanged)}" in (
        said.getvalue().replace("\n", " ")
    )


@pytest.mark.parametrize("transform", [Magnitude(0.5, "tensor"), Magnitude(0.5), Ties(0.5), Doge()])
def test_no_more_than_two_stacks_are_alive(together, tmp_path, transform, monkeypatch):
    """One that is looked at, and the next one while it is read."""
    vectors = task_vectors(together, together.shared, resident=False)
    alive: list[weakref.ref] = []
    most, whole = 0, vectors.stack

    def stack(name):
        nonlocal most
        made = whole(name)
        alive.append(weakref.ref(made))
        most = max(most, sum(reference() is not None for reference in alive))
        return made

    monkeypatch.setattr(vectors, "stack", stack)
    transformed(vectors, together.base, transform, tmp_path / "kept")
    assert most <= 2


def test_results_are_stored_in_the_dtype_of_the_computation(together, tmp_path):
    vectors = task_vectors(together, together.shared, resident=False, dtype=torch.float64)
    stored = transformed(vectors, together.base, Doge(), tmp_path / "kept")
    assert {stack.dtype for _, stack in stored.stacks()} == {torch.float64}
