"""Start coefficients in mergekit's words against mergekit's own function."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mergekit.config import ConditionalParameter, evaluate_setting

from adamerge.merging.grouping import block_wise, task_wise, tensor_wise
from adamerge.runs.model_config import FilteredWeight
from adamerge.runs.read_config import merge_config
from adamerge.runs.start import relative_depths, start_column, start_of, weight_notes, weight_of
from adamerge.types import ConfigError

NAMES = ["emb", *(f"h.{i}.{part}.w" for i in range(4) for part in ("self_attn", "mlp")), "norm", "lm_head"]
NUMBERS = st.floats(-2, 2, allow_nan=False)
GRADIENTS = st.one_of(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=5))


@given(
    st.one_of(GRADIENTS, st.lists(st.tuples(GRADIENTS, st.sampled_from(["self_attn", "mlp", "*", None])), min_size=1)),
    st.sampled_from(NAMES),
    st.floats(0, 1),
)
def test_a_weight_is_what_mergekit_makes_of_it(setting, name, depth):
    pairs = isinstance(setting, list) and isinstance(setting[0], tuple)
    theirs = [ConditionalParameter(value=value, filter=word) for value, word in setting] if pairs else setting
    ours = [FilteredWeight(value, word) for value, word in setting] if pairs else setting
    expected = evaluate_setting(name, theirs, depth, validate=lambda value: value)
    assert weight_of(name, ours, depth, 0.7) == pytest.approx(0.7 if expected is None else expected)


def test_depth_runs_over_the_layers_and_ends_with_what_follows_them():
    depths = relative_depths(NAMES)
    assert [depths[f"h.{i}.mlp.w"] for i in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert (depths["emb"], depths["norm"], depths["lm_head"]) == (0, 1, 1)
    assert relative_depths(["enc.0.w", "enc.1.w", "dec.0.w", "dec.1.w"])["dec.0.w"] == 0
    assert relative_depths(["emb", "h.0.w"]) == {"emb": 0, "h.0.w": 1}


@pytest.mark.parametrize("grouping", [tensor_wise, block_wise])
def test_a_gradient_gives_each_layer_its_own_start(grouping):
    column = start_column("news", [0.0, 0.9], grouping(NAMES), 0.3)
    assert column[0] == 0
    assert column[-1] == 0.9
    assert sorted(column) == column


def test_a_group_cannot_have_two_starts():
    filtered = [FilteredWeight(0.3, "self_attn"), FilteredWeight(0.5)]
    with pytest.raises(ConfigError, match=r"news: .* of h\.0 2 starts between 0\.3 and 0\.5.*grouping: tensor"):
        start_column("news", filtered, block_wise(["h.0.self_attn.w", "h.0.mlp.w"]), 0.3)


def config_with(weights, **changes):
    models = [
        {"model": task, **({} if weight is None else {"parameters": {"weight": weight}})}
        for task, weight in zip("ab", weights, strict=True)
    ]
    return merge_config({"base_model": "base", "models": models, "method": "task_arithmetic", **changes})


def test_experts_without_a_weight_start_from_init():
    table = start_of(config_with([0.5, None], init=0.2), task_wise(NAMES))
    assert torch.equal(table, torch.tensor([[0.5, 0.2]]))
    assert start_of(config_with([None, None], init=0.2), task_wise(NAMES)) == 0.2


def test_the_average_is_normalised_as_mergekits_linear_is():
    config = config_with([1, 3], method="average")
    assert torch.equal(start_of(config, task_wise(NAMES)), torch.tensor([[0.25, 0.75]]))
    assert "divided by their sum" in weight_notes(config, NAMES)[0]
    with pytest.raises(ConfigError, match="sum other than 0"):
        start_of(config_with([1, -1], method="average"), task_wise(NAMES))


def test_a_gradient_comes_with_a_note_on_what_follows_the_layers():
    assert "mergekit takes the first" in weight_notes(config_with([[0, 1], 1]), NAMES)[0]
    assert not weight_notes(config_with([0.5, 1]), NAMES)


@pytest.mark.parametrize(
    ("changes", "start"), [({}, "init: published, which is 0.3."), ({"init": 0.2}, "init: 0.2."), (None, "")]
)
def test_where_parameters_start_that_no_filter_matches_is_said(changes, start):
    weight = [{"filter": "mlp", "value": 0.4}, *([] if changes is not None else [{"value": 0.1}])]
    config = config_with([weight, 1], **(changes or {}))
    notes = weight_notes(config, NAMES)
    assert len(notes) == bool(start)
    column = start_of(config, tensor_wise(NAMES))[:, 0]
    others = [i for i, name in enumerate(NAMES) if "mlp" not in name]
    for note in notes:
        assert f"{len(others)} of {len(NAMES)} parameters, such as {NAMES[others[0]]}, match no filter" in note
        assert f"start from {start}" in note
        assert float(start.removesuffix(".").split()[-1]) == pytest.approx(column[others].unique().item())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "ties"}, "mergekit's ties uses weights to elect signs"),
        ({"method": "isotropic"}, "Isotropic makes one task vector of all experts"),
        ({"method": "adamerging", "init": "closed_form"}, "closed_form computes the start"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        start_of(config_with([0.5, 1], **changes), tensor_wise(NAMES))


@pytest.mark.parametrize("weight", [float("nan"), [0.1, float("inf")], []])
def test_a_weight_that_is_no_finite_number_is_refused(weight):
    models = [{"model": "news", "parameters": {"weight": weight}}]
    with pytest.raises(ConfigError, match=r"expected (finite|at least one) number"):
        merge_config({"base_model": "base", "models": models})
