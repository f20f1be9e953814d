"""A wrong base shows in the task vectors before anything is learned; good pools raise no alarm."""

from io import StringIO
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from support.families import TASKS, build, configuration
from support.mistakes import edit_tensors

from adamerge import Merge
from adamerge.experts.common_component import Products, alike, depth_of, ratios
from adamerge.experts.from_modules import from_modules
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.runs.check import check
from adamerge.runs.read_config import merge_config


def moved(model, size, seed):
    """A copy of a model, each parameter moved at random by a share of its norm."""
    other = build(type(model).__name__, model.config.model_type, 0, num_labels=3)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for (_, own), start in zip(other.named_parameters(), model.parameters(), strict=True):
            noise = torch.randn(own.shape, generator=draw)
            own.copy_(start + size * noise * start.norm() / noise.norm())
    return other


BASE = build("BertForSequenceClassification", "bert", 0, num_labels=3)


def warnings_of(base, experts):
    return inspect_weights(from_modules(base, experts)).warnings


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [1e-3, 0.02, 0.2])
def test_a_good_pool_raises_no_alarm(count, size):
    experts = {f"t{k}": moved(BASE, size * 2 ** (k % 2), k) for k in range(1, count + 1)}
    assert warnings_of(BASE, experts) == ()


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("shift", [0.02, 0.3])  # as far away as its experts are, which is so if it is one of them
def test_experts_of_another_base_share_its_difference(count, shift):
    instruct = moved(BASE, shift, 100)
    experts = {f"t{k}": moved(instruct, 0.02, k) for k in range(1, count + 1)}
    (line,) = warnings_of(BASE, experts)
    assert line.startswith(", ".join(experts))
    assert "take that one as base_model" in line
    assert warnings_of(instruct, experts) == ()


def test_some_experts_of_another_base_are_named():
    instruct = moved(BASE, 0.05, 100)
    experts = {f"t{k}": moved(instruct if k in (2, 4) else BASE, 0.02, k) for k in range(1, 7)}
    (line,) = warnings_of(BASE, experts)
    assert line.startswith("t2, t4: their task vectors share a large part")


def test_the_same_expert_twice_is_named():
    twin = moved(BASE, 0.02, 1)
    (line,) = warnings_of(BASE, {"a": twin, "b": moved(twin, 1e-4, 2), "c": moved(BASE, 0.02, 3)})
    assert line.startswith("a, b: ")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_expert_far_larger_than_the_others_is_named(count):
    experts = {f"t{k}": moved(BASE, 0.01, k) for k in range(1, count)}
    (line,) = warnings_of(BASE, {**experts, "far": moved(BASE, 0.2, 99)})
    assert line.startswith("far: ‖expert − base‖ is 0.2 times ‖base‖, and 20")
    assert "another base" in line


def test_an_expert_that_hardly_differs_is_named():
    (line,) = warnings_of(BASE, {"a": moved(BASE, 0.05, 1), "b": moved(BASE, 0.05, 2), "c": moved(BASE, 1e-4, 3)})
    assert line.startswith("c: ")
    assert "almost the base" in line


def test_a_head_alone_is_a_note():
    probe = build("BertForSequenceClassification", "bert", 1, num_labels=3)
    probe.bert.load_state_dict(BASE.bert.state_dict())
    (line,) = warnings_of(BASE, {"probe": probe, "b": moved(BASE, 0.05, 2)})
    assert line == "probe: all shared parameters equal the base's; its task vector is 0, and only its head its own."


def test_check_and_python_say_it(family):
    base = load_file("base/model.safetensors")
    for task in TASKS:
        edit_tensors(
            Path(task) / "model.safetensors",
            lambda t: t.update({f"bert.{n}": 1.1 * base[n] + 0.01 * t[f"bert.{n}"] for n in base}),
        )
    with pytest.warns(UserWarning, match=r"mood \(mood\), topic \(topic\): their .* share a large part"):
        Merge("base", TASKS, method="average").learn()
    out = StringIO()
    assert check(merge_config(configuration()), Console(file=out, width=1000), deep=True) == []
    assert "warning: mood (mood), topic (topic): their task vectors share" in out.getvalue()


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 7))
def test_cosines_equal_those_of_the_whole_vectors(seed, count, pieces):
    vectors = torch.randn(count, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    products = Products([f"t{k}" for k in range(count)])
    for part in vectors.split(pieces, 1):
        products.add("layer.0.weight", part)
    for (one, two), cosine in products.cosines().items():
        expected = torch.cosine_similarity(vectors[int(one[1:])], vectors[int(two[1:])], 0)
        assert cosine == pytest.approx(expected.item(), abs=1e-9)


def test_blocks_have_the_order_of_their_numbers():
    """Files list block 10 before block 2, and pictures by depth would, too."""
    products = Products(["a", "b"])
    for name in ("embeddings.weight", *(f"layers.{k}.weight" for k in (0, 1, 10, 11, 2))):
        products.add(name, torch.ones(2, 1))
    assert list(products.by_depth) == ["embeddings", *(f"layers.{k}" for k in (0, 1, 2, 10, 11))]


def test_the_median_over_depths_counts():
    products = Products(["a", "b"])
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for name, pair in {"x.0.w": (one, two), "x.1.w": (one, two), "embeddings.w": (100 * one, 100 * one)}.items():
        products.add(name, torch.stack(pair))
    products.add("y.0.w", torch.stack([one, 0 * one]))  # no cosine with a zero vector
    assert products.cosines() == {("a", "b"): 0.0}


def test_names_and_ratios():
    assert [depth_of(name) for name in ("h.3.attn.2.w", "wte.weight", "weight")] == ["h.3", "wte", "weight"]
    assert ratios({"a": 0.0, "b": 2.0}) == {"a": 0.0, "b": 1.0}
    chain = {("a", "b"): 0.8, ("b", "c"): 0.8, ("a", "c"): 0.1, ("a", "d"): 0, ("b", "d"): 0, ("c", "d"): 0}
    assert alike(chain) == [(["a", "b", "c"], pytest.approx(1.7 / 3))]
