"""Everything that is no change of weights by LoRA, or does not fit, is refused by its own name, with what to do."""

import dataclasses
import re

import pytest
import torch
from peft import LoraConfig
from support.adapter_document import messages
from support.adapter_mismatches import MADE, refusal_of
from support.adapter_refusals import CASES, OTHER_TYPES, PROMPTS, Plain
from support.adapters import TIED, experts_of, saved
from torch import nn

from adamerge.experts.adapter_config import KNOWN
from adamerge.experts.adapter_keys import Parts
from adamerge.experts.adapter_no_weight import no_weight
from adamerge.types import ConfigError, IncompatibleExpertsError


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One base and one plain adapter."""
    return Plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def opened(plain, tmp_path):
    """Opens the plain adapter with other options, tensors and files."""
    return lambda options=None, **given: plain.open(tmp_path / "adapter", options, **given)


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_every_other_kind_of_peft(plain, tmp_path, kind):
    way_out = "cannot be merged. Train a LoRA adapter" if kind in PROMPTS else "merge_and_unload"
    message = plain.refusal(tmp_path / "adapter", options={"peft_type": kind})
    assert re.search(rf"expected a LoRA adapter.*found {kind}\W.*{way_out}", message)
    assert messages().get(kind) == message


@pytest.mark.parametrize("kind", CASES)
def test_what_means_something_else_or_does_not_fit_is_refused_as_documented(plain, tmp_path, kind):
    given, words = CASES[kind]
    message = plain.refusal(tmp_path / "adapter", **given)
    assert re.search(words, message)
    assert messages().get(kind) == message.splitlines()[0]


@pytest.mark.parametrize("kind", MADE)
def test_what_does_not_belong_together_is_refused_as_documented(tmp_path, kind):
    make, words = MADE[kind]
    message = refusal_of(*make(tmp_path / "made"))
    assert re.search(words, message)
    assert messages().get(kind) == message.splitlines()[0]


def test_the_document_lists_no_other_refusals():
    """It may list kinds that an older PEFT lacks."""
    documented = {kind for kind in messages() if not kind.isupper()}
    assert documented == {kind for kind in (*CASES, *MADE) if not kind.isupper()}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(LoraConfig)])
def test_every_option_of_peft_is_known(field):
    assert field in KNOWN


SAID = {
    "an option of the future": ({"use_something_new": True}, "options that are not known here: use_something_new"),
    "a scale of nothing": ({"lora_alpha": 0}, "makes the scale of some factors 0 .* change nothing"),
    "rows that are not there": (
        {"trainable_token_indices": [1]},
        r"names trainable_token_indices \(of the input\), but",
    ),
    "a module that is not there": ({"modules_to_save": ["lm_head"]}, r"names modules_to_save \(lm_head.weight\), but"),
    "the end of a module's name": (
        {"modules_to_save": ["layernorm"]},
        r"names modules_to_save \(.*0.input_layernorm.weight, .*\), but",
    ),
    "targets that are not there": (
        {"target_modules": ["q_proj", "k_proj"]},
        r"target_modules \(.*1.self_attn.k_proj\)",
    ),
    "biases that are not there": (
        {"lora_bias": True},
        r"names lora_bias \(.*0.self_attn.q_proj, .*\), but",
    ),
    "another rank": ({"r": 16}, "says rank 16 for model.layers.0.self_attn.q_proj, but its factors have rank 4"),
    "another rank by a pattern": ({"rank_pattern": {"v_proj": 2}}, "says rank 2 for .*v_proj, .* rank 4"),
}


@pytest.mark.parametrize("kind", SAID)
def test_options_that_do_not_fit_the_tensors_are_said(opened, kind):
    options, words = SAID[kind]
    assert any(re.search(words, note) for note in opened(options).notes)


def test_layers_without_factors_are_said(plain, tmp_path):
    without = {key: value for key, value in plain.tensors.items() if "layers.1" not in key}
    notes = plain.open(tmp_path / "adapter", {}, change=lambda _: without).notes
    assert any(
        "target_modules (model.layers.1.self_attn.q_proj, model.layers.1.self_attn.v_proj)" in note for note in notes
    )
    chosen = plain.open(tmp_path / "chosen", {"layers_to_transform": [0]}, change=lambda _: without).notes
    assert not any("the file has no tensors" in note for note in chosen)


LAYERS = "model.layers.1.self_attn.q_proj, model.layers.1.self_attn.v_proj"
PARTLY = {
    "a pattern": ({"target_modules": r".*\.(q|v)_proj"}, rf"target_modules \({LAYERS}\)"),
    "numbers of layers": ({"layers_to_transform": [0, 1], "layers_pattern": "layers"}, rf"target_modules \({LAYERS}\)"),
    "all linear layers": ({"target_modules": "all-linear"}, r"target_modules \(.*0.self_attn.k_proj, .* and 9 more\)"),
    "norms": (
        {"modules_to_save": ["norm"]},
        r"modules_to_save \(model.layers.0.post_attention_layernorm.weight, .*1 more",
    ),
    "layers that were saved": ({"modules_to_save": ["layers.1"]}, r"names modules_to_save \(\S*layers.1.*\), but"),
    "rows by name": ({"trainable_token_indices": {"lm_head": [1]}}, r"trainable_token_indices \(lm_head\)"),
}


@pytest.mark.parametrize("kind", PARTLY)
def test_what_the_file_has_in_part_is_said(plain, tmp_path, kind):
    options, words = PARTLY[kind]
    tensors = {key: value for key, value in plain.tensors.items() if "layers.1" not in key}
    tensors["base_model.model.model.layers.0.input_layernorm.weight"] = torch.full((16,), 2.0)
    notes = plain.open(tmp_path / "adapter", options, change=lambda _: tensors).notes
    assert any(re.search(words, note) for note in notes)


def test_rows_of_one_side_of_tied_embeddings_are_refused(tmp_path):
    base, adapter, _ = saved(
        tmp_path, TIED, {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [1]}}
    )
    with pytest.raises(
        IncompatibleExpertsError, match=r"lm_head.weight is tied to .*, and the adapter changes one side"
    ):
        experts_of(base, a=adapter)


def test_factors_of_a_computed_weight_are_refused():
    """PEFT adds them to a weight that weight norm computes anew from its own parameters."""
    parts = Parts("conv", {"A": "conv.lora_A.weight", "B": "conv.lora_B.weight"})
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert "whose weight is computed from others" in str(no_weight(parts, "conv", layer))
    assert no_weight(parts, "conv", nn.Linear(2, 2)) is None


@pytest.mark.parametrize("excluded", [["layers.1.self_attn.q_proj", "v_proj"], r".*layers\.1\..*"])
def test_excluded_layers_need_no_factors(plain, tmp_path, excluded):
    without = {key: value for key, value in plain.tensors.items() if "layers.1" not in key}
    options = {"target_modules": ["q_proj", "layers.1.self_attn.v_proj"], "exclude_modules": excluded}
    notes = plain.open(tmp_path / "adapter", options, change=lambda _: without).notes
    assert not any("the file has no tensors" in note for note in notes)


def test_factors_that_are_zero_are_said(plain, tmp_path):
    for some, words in (("layers.1.self_attn.q_proj", "1 of 4 modules"), ("", "all modules")):
        zero = {k: 0 * v if f"{some}" in k and "lora_B" in k else v for k, v in plain.tensors.items()}
        notes = plain.open(tmp_path / f"adapter{some}", {}, change=lambda _, zero=zero: zero).notes
        assert any(f"the factors of {words}" in note and "are 0, as before training" in note for note in notes)


def test_nothing_is_said_of_what_fits(opened):
    words = ("not known here", "says rank", "the file has no tensors", "the scale of some factors", "are 0")
    assert not any(word in note for note in opened({}).notes for word in words)


@pytest.mark.parametrize("name", ["style.safetensors", "style.pt"])
def test_a_file_in_place_of_a_folder_is_named(plain, tmp_path, name):
    plain.prepare(tmp_path / "adapter", files={name: {"lora_te_a.lora_down.weight": torch.ones(2, 2)}, "a.txt": b"-"})
    with pytest.raises(ConfigError, match=rf"found a file: {name} in Kohya's format"):
        experts_of(plain.base, a=tmp_path / "adapter" / name)
    with pytest.raises(ConfigError, match=r"a\.txt: expected the folder .*, found a file. Give the folder"):
        experts_of(plain.base, a=tmp_path / "adapter/a.txt")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_base_that_can_be_no_folder_is_a_name(opened, name):
    assert any("names the base" in note for note in opened({"base_model_name_or_path": name}).notes)
