"""transformers' conversions of names and tensors, both ways, against `save_pretrained` and `from_pretrained`."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.families import build
from support.renamed import OTHERS, PARTS, model_of

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.conversion import Converted, written
from adamerge.experts.match_names import match, match_tensors
from adamerge.experts.skeleton import skeleton
from adamerge.storage.weights import InMemory
from adamerge.types import IncompatibleExpertsError


def load(architecture, folder):
    return getattr(transformers, architecture).from_pretrained(folder).state_dict()


@pytest.mark.parametrize("architecture", [*PARTS, *dict(OTHERS)])
def test_names_are_read_and_written_as_by_transformers(tmp_path, architecture):
    model = model_of(architecture)
    model.save_pretrained(tmp_path)
    opened = open_checkpoint(str(tmp_path))
    module = skeleton(opened.config, architecture)
    found = match(opened, module)
    assert not found.missing
    assert not found.unexpected
    assert not found.notes
    own = Converted(opened.tensors, found.names)
    state = model.state_dict()
    for name in own.headers:
        assert torch.equal(own[name], state[name]), name
    names = {
        name for unit in written(module, list(own.headers)) for name in unit.apply({n: state[n] for n in unit.names})
    }
    assert names == load_file(tmp_path / "model.safetensors").keys()


def old_layer_norm(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def old_weight_norm(name):
    return name.replace("parametrizations.weight.original0", "weight_g")


TWICE = {
    "BertForPreTraining": old_layer_norm,
    "Wav2Vec2Model": old_weight_norm,
    **{architecture: None for architecture in PARTS if "Generation" in architecture or "Detection" in architecture},
}
"""Another name of the parameters by class; None is the module's own name, which differs from the file's."""


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("architecture", TWICE)
def test_a_parameter_under_two_names_is_refused_unless_equal(tmp_path, architecture, equal):
    model_of(architecture).save_pretrained(tmp_path)
    module = skeleton(open_checkpoint(str(tmp_path)).config, architecture)
    tensors = load_file(tmp_path / "model.safetensors")
    rename = TWICE[architecture]
    if rename is None:
        units = written(module, [name for name, _ in module.named_parameters()])
        pairs = [(unit.name, unit.names[0]) for unit in units if unit.name not in (None, unit.names[0])]
    else:
        pairs = [(name, rename(name)) for name in tensors if rename(name) != name]
    name, other = pairs[0]
    tensors[other] = tensors[name].clone() if equal else tensors[name] + 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    opened = open_checkpoint(str(tmp_path))
    theirs = load(architecture, tmp_path)
    if equal:
        found = match(opened, module)
        assert any("stored twice" in note and name in note and other in note for note in found.notes)
        own = Converted(opened.tensors, found.names)
        assert all(torch.equal(own[n], theirs[n]) for n in own.headers)
        return
    with pytest.raises(IncompatibleExpertsError, match="transformers reads the first") as error:
        match(opened, module)
    first, second = sorted((name, other), key=str(error.value).index)
    assert f"{tmp_path}: {first} and {second} are one parameter of {architecture}" in str(error.value)
    read = [target for target, value in theirs.items() if torch.equal(value, tensors[first])]
    assert read  # transformers did read the first
    assert not any(torch.equal(theirs[target], tensors[second]) for target in read)


def test_stacked_and_single_experts_in_one_file_are_refused(tmp_path):
    module, tensors = tiny_mixtral(tmp_path)
    stack = torch.stack([tensors[f"model.layers.0.block_sparse_moe.experts.{i}.w2.weight"] for i in range(2)])
    both = InMemory({**tensors, "model.layers.0.mlp.experts.down_proj": stack})
    with pytest.raises(IncompatibleExpertsError, match=r"x: .*experts.0.w2.weight and .*experts.down_proj are one"):
        match_tensors("x", both, module)


def tiny_mixtral(folder):
    config = transformers.MixtralConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=20, num_local_experts=2,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    return skeleton(config, "MixtralForCausalLM"), load_file(folder / "model.safetensors")


def test_a_mixture_without_one_of_its_tensors_is_refused(tmp_path):
    module, tensors = tiny_mixtral(tmp_path)
    del tensors["model.layers.0.block_sparse_moe.experts.1.w3.weight"]
    with pytest.raises(IncompatibleExpertsError, match=r"x: transformers computes .*gate_up_proj from 2 .* and 1 "):
        match_tensors("x", InMemory(tensors), module)


def test_a_mixture_without_one_of_its_experts_has_another_shape(tmp_path):
    module, tensors = tiny_mixtral(tmp_path)
    for part in ("w1", "w2", "w3"):
        del tensors[f"model.layers.0.block_sparse_moe.experts.1.{part}.weight"]
    found = match_tensors("x", InMemory(tensors), module)
    own = Converted(InMemory(tensors), found.names)
    assert own.shape("model.layers.0.mlp.experts.down_proj")[0] == 1


@pytest.mark.parametrize(
    ("architecture", "extra"),
    [
        ("LlamaForCausalLM", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("GPT2LMHeadModel", "transformer.h.1.attn.bias"),
        ("BertForPreTraining", "bert.embeddings.position_ids"),
        ("CLIPModel", "text_model.embeddings.position_ids"),
        ("T5ForConditionalGeneration", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    ],
)
def test_what_transformers_passes_over_is_passed_over_and_said(tmp_path, architecture, extra):
    model_of(architecture).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, extra: torch.ones(4)}, tmp_path / "model.safetensors", {"format": "pt"})
    _, info = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    opened = open_checkpoint(str(tmp_path))
    found = match(opened, skeleton(opened.config, architecture))
    assert not found.unexpected
    assert found.passed_over == (extra,)
    assert any(extra in note for note in found.notes)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model.", "net.0."])
def test_a_prefix_of_all_names_is_removed_and_said(tmp_path, prefix):
    model = build("BertForSequenceClassification", "bert", 0)
    tensors = InMemory({prefix + name: value for name, value in model.state_dict().items()})
    found = match_tensors("x", tensors, skeleton(model.config, "BertForSequenceClassification"))
    assert found.notes == (f"x: every name begins with {prefix}, which a wrapper added; it is removed.",)
    own = Converted(tensors, found.names)
    assert not found.missing
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


WRAPPED = {
    "compiled parts": ("BertForSequenceClassification", "bert", {"bert.": "bert._orig_mod."}),
    "FSDP": ("LlamaModel", "llama", {"": "_fsdp_wrapped_module.", "layers.1.": "layers.1._fsdp_wrapped_module."}),
    "activation checkpointing": ("LlamaForCausalLM", "llama", {"layers.0.": "layers.0._checkpoint_wrapped_module."}),
    "a parallel part": ("ViTForImageClassification", "vit", {"vit.": "vit.module."}),
    "both": ("LlamaForCausalLM", "llama", {"layers.1.": "layers.1._fsdp_wrapped_module._checkpoint_wrapped_module."}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_words_of_wrappers_are_removed_and_said(name):
    architecture, family, changes = WRAPPED[name]
    model = build(architecture, family, 0)
    tensors = {}
    for key, value in model.state_dict().items():
        for part, wrapped in changes.items():
            key = key.replace(part, wrapped, 1)
        tensors[key] = value
    found = match_tensors("x", InMemory(tensors), skeleton(model.config, architecture))
    assert not found.missing + found.unexpected
    assert all("which a wrapper added; it is removed." in note for note in found.notes)
    assert 1 <= len(found.notes) <= 2
    own = Converted(InMemory(tensors), found.names)
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items() if name in own)


def test_what_lies_beside_a_wrapped_model_is_all_that_has_no_place():
    model = build("BertForSequenceClassification", "bert", 0)
    tensors = {f"model._orig_mod.{name}": value for name, value in model.state_dict().items()}
    found = match_tensors("x", InMemory({**tensors, "loss.weight": torch.ones(3)}), model)
    assert (found.missing, found.unexpected) == ((), ("loss.weight",))
    (note,) = found.notes
    assert note.startswith(f"x: {len(tensors)} of {len(tensors) + 1} names begin with model._orig_mod., which")


def test_names_that_fit_nothing_keep_their_prefix():
    model = build("BertForSequenceClassification", "bert", 0)
    found = match_tensors("x", InMemory({"net.a": torch.ones(2), "net.b": torch.ones(2)}), model)
    assert set(found.unexpected) == {"net.a", "net.b"}


def test_a_file_in_old_names_is_written_in_todays():
    module = skeleton(build("BertModel", "bert", 0).config, "BertModel")
    names = {unit.name for unit in written(module, [name for name, _ in module.named_parameters()])}
    assert "embeddings.LayerNorm.weight" in names
    assert not any("gamma" in str(name) or "beta" in str(name) for name in names)
