"""Adapters of fused experts, attention in one matrix and layers that PEFT would misread, exported and loaded by it."""

import json
import shutil
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support.adapter_pool import assert_same, coefficients_of, merged_state
from support.adapters import BOTH, LLAMA, TIED, experts_of, in_old_names, logits, model, saved

from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results import adapter_export
from adamerge.results.adapter_export import export_adapter
from adamerge.runs.adapter_limits import placeless
from adamerge.transforms import Isotropic
from adamerge.transforms.mixtures import by_matrix
from adamerge.transforms.stored import transformed
from adamerge.types import ConfigError

ATTENTION = ("SiglipVisionModel", "", {})


def of_peft(name, options):
    """Two adapters by PEFT, of rank 4 and 2."""
    family = (name, "", {}) if isinstance(name, str) else name

    def make(folder):
        base, first, _ = saved(folder, family, options, 1)
        _, second, _ = saved(folder / "other", family, {**options, "r": 2}, 2)
        return experts_of(base, a=first, b=second)

    return make


def of_transformers_4(name, targets):
    """An adapter with the names of transformers 4, and one with other factors and twice the scale."""

    def make(folder):
        base, first, _ = in_old_names(folder, name, targets, {})
        second = shutil.copytree(first, folder / "second")
        tensors = load_file(first / "adapter_model.safetensors")
        save_file({key: value.flip(0) for key, value in tensors.items()}, second / "adapter_model.safetensors")
        options = json.loads((first / "adapter_config.json").read_text())
        (second / "adapter_config.json").write_text(json.dumps({**options, "lora_alpha": 6}))
        return experts_of(base, a=first, b=second)

    return make


POOLS = {
    "fused experts": ("MixtralForCausalLM", of_peft("MixtralForCausalLM", {"target_parameters": BOTH})),
    "fused experts, inputs first": (
        "GptOssForCausalLM",
        of_peft("GptOssForCausalLM", {"target_parameters": BOTH[1:], "target_modules": ["q_proj"]}),
    ),
    "a router": (
        "Qwen3MoeForCausalLM",
        of_peft("Qwen3MoeForCausalLM", {"target_modules": [], "target_parameters": ["mlp.gate.weight"]}),
    ),
    "attention in one matrix": ("SiglipVisionModel", of_peft(ATTENTION, {"target_modules": ["attention", "q_proj"]})),
    "experts, dense and shared layers of transformers 4": (
        "DeepseekV3ForCausalLM",
        of_transformers_4("DeepseekV3ForCausalLM", r"mlp\."),
    ),
}


@pytest.mark.parametrize("kind", POOLS)
def test_pefts_live_and_merged_models_are_the_dense_merge(tmp_path, kind):
    """Written after PEFT and transformers loaded it too."""
    name, make = POOLS[kind]
    experts = make(tmp_path)
    vectors = task_vectors(experts, experts.shared)
    merge = MergedModel(experts, vectors, task_wise(vectors.shapes))
    coefficients = coefficients_of(merge)
    exported = export_adapter(merge, coefficients, tmp_path / "out")
    assert any("loaded by PEFT" in note for note in exported.notes)
    expected = merged_state(merge, coefficients)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = PeftModel.from_pretrained(model(name), tmp_path / "out").eval()
    dense = logits(model(name), {key: value.float() for key, value in expected.items()})
    torch.testing.assert_close(logits(live.base_model.model, {}), dense, rtol=1e-4, atol=1e-5)
    assert_same(live.merge_and_unload().state_dict(), expected)
    opened = open_checkpoint(str(tmp_path / "base"))  # and our own reader takes it as an expert
    again = open_expert(str(tmp_path / "out"), opened).tensors
    assert_same({key: again[key] for key in expected}, expected)


def test_gate_and_up_of_an_expert_have_spaces_of_their_own(tmp_path, monkeypatch):
    """Isotropic task vectors see the matrices of each expert of the mixture one by one."""
    monkeypatch.setattr(adapter_export, "peft_version", lambda: None)
    experts = POOLS["fused experts"][1](tmp_path)
    plain = task_vectors(experts, experts.shared)
    vectors = transformed(plain, experts.base, by_matrix(Isotropic(), experts.layouts), tmp_path / "vectors")
    merge = MergedModel(experts, vectors, task_wise(vectors.shapes))
    coefficients = coefficients_of(merge)
    export_adapter(merge, coefficients, tmp_path / "out")
    found = PeftModel.from_pretrained(model("MixtralForCausalLM"), tmp_path / "out").merge_and_unload().state_dict()
    assert_same(found, merged_state(merge, coefficients))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A tied base, and an adapter of both embeddings."""
    folder = tmp_path_factory.mktemp("tied")
    base, adapter, _ = saved(folder, TIED, {"target_modules": ["embed_tokens"], "ensure_weight_tying": True})
    return experts_of(base, a=adapter)


def test_tied_embeddings_are_refused_with_the_reason(tied, tmp_path):
    reason = r"embed_tokens\.weight: it is tied.*one of them only.*adds the factors twice.*tie_word_embeddings: false"
    vectors = task_vectors(tied, tied.shared)
    merge = MergedModel(tied, vectors, task_wise(vectors.shapes))
    with pytest.raises(ConfigError, match=reason):
        export_adapter(merge, torch.ones(1, 1), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (line,) = placeless(tied.tasks["a"], list(tied.shared))  # which is refused before learning
    assert "it is tied" in line


def test_what_is_changed_without_factors_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_export, "peft_version", lambda: None)
    options = {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"], "trainable_token_indices": [1]}
    base, adapter, _ = saved(tmp_path, LLAMA, options)
    experts = experts_of(base, a=adapter)
    vectors = task_vectors(experts, experts.shared)
    merge = MergedModel(experts, vectors, task_wise(vectors.shapes))
    with pytest.raises(ConfigError) as error:
        export_adapter(merge, torch.ones(1, 1), tmp_path / "out")
    assert "embed_tokens.weight: a changes the whole tensor (trained token rows)" in str(error.value)
    assert "input_layernorm.weight: a changes the whole tensor (a module that was trained whole)" in str(error.value)
