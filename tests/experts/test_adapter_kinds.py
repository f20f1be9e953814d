"""Every kind of adapter: a one-hot merge has the logits of PEFT's merge, or of the adapter as it was trained."""

import json
import re

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.adapter_document import differences
from support.adapter_kinds import ALL, MIXTURES, MLX
from support.adapters import (
    BOTH,
    FUSED,
    KINDS,
    TIED,
    TRANSFORMERS_4,
    experts_of,
    in_old_names,
    inputs_of,
    logits,
    model,
    of_mlx,
    of_mlx_mixture,
    one_hot_logits,
    saved,
    trained,
)

from adamerge.experts.checkpoint import open_checkpoint


def check(experts, expected):
    """Weights and logits of the one expert are the expected ones, and something was changed."""
    found = experts.tasks["a"].weights
    assert found.changed
    assert not any("the file has no tensors" in note for note in experts.notes)
    for name in found.headers:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    module, expected = experts.tasks["a"].module, {name: expected[name] for name in found.headers}
    ours, theirs = one_hot_logits(experts, "a"), logits(module, expected)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    unchanged = {**expected, **{name: experts.base[name] for name in found.changed}}
    assert (theirs - logits(module, unchanged)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_one_hot_merge_has_the_logits_of_pefts_merge(tmp_path, kind):
    base, adapter, expected = saved(tmp_path, *KINDS[kind])
    check(experts_of(base, a=adapter), expected)


@pytest.mark.parametrize("kind", FUSED)
def test_factors_of_fused_experts(tmp_path, kind):
    name, options = FUSED[kind]
    options = {"target_modules": [], **options}
    base, adapter, expected = saved(tmp_path, name, options)
    check(experts_of(base, a=adapter), expected)


def test_factors_of_a_targeted_parameter_that_are_not_in_the_file_are_said(tmp_path):
    base, adapter, _ = saved(tmp_path, "MixtralForCausalLM", {"target_modules": [], "target_parameters": BOTH})
    file = adapter / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if ".base_layer." not in key}, file)
    said = [note for note in experts_of(base, a=adapter).notes if "the file has no tensors" in note]
    assert len(said) == 1
    assert "target_parameters (model.layers.0.mlp.experts.gate_up_proj" in said[0]


@pytest.mark.parametrize("kind", TRANSFORMERS_4)
def test_module_paths_of_transformers_4(tmp_path, kind):
    base, adapter, expected = in_old_names(tmp_path, *TRANSFORMERS_4[kind])
    experts = experts_of(base, a=adapter)
    check(experts, expected)
    weights = experts.tasks["a"].weights
    assert all(weights.change(name).low_rank for name in weights.changed)


OTHER_NAMES = {
    "an adapter's name": lambda key: key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    "no prefix": lambda key: key.removeprefix("base_model.model."),
    "the prefix twice": lambda key: f"base_model.model.{key}",
}


@pytest.mark.parametrize("kind", OTHER_NAMES)
def test_other_names_of_the_same_tensors(tmp_path, kind):
    base, adapter, expected = saved(tmp_path, *KINDS["plain"])
    file = adapter / "adapter_model.safetensors"
    save_file({OTHER_NAMES[kind](key): value for key, value in load_file(file).items()}, file)
    check(experts_of(base, a=adapter), expected)


@pytest.mark.parametrize("name", ["default", "news"])
@pytest.mark.parametrize("kind", ["head", "bias of lora layers", "module of its own", "head of two layers"])
def test_a_state_dict_of_the_whole_model(tmp_path, kind, name):
    """It has the adapter's name in its keys, and copies of the base's parameters, which must be those of this base."""
    base, adapter, expected = saved(tmp_path, *KINDS[kind])
    (cls, family, more), options = KINDS[kind]
    peft = trained(model(cls, family, **more), options)
    tensors = {key.replace(".default", f".{name}"): value.clone() for key, value in peft.state_dict().items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    check(experts_of(base, a=adapter), expected)


def test_a_bias_of_factors_beside_a_trained_bias(tmp_path):
    base, adapter, expected = saved(tmp_path, *KINDS["bias of factors"])
    file = adapter / "adapter_model.safetensors"
    name = "bert.encoder.layer.0.attention.self.query.bias"
    trained = torch.linspace(-1, 1, 16)
    save_file({**load_file(file), f"base_model.model.{name.replace('.bias', '.base_layer.bias')}": trained}, file)
    moved = expected[name] - open_checkpoint(str(base)).tensors[name]
    check(experts_of(base, a=adapter), {**expected, name: trained + moved})


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_factors_of_tied_embeddings_that_were_trained_tied(tmp_path, target):
    """PEFT's file has the factors of both sides, and its merge adds both to the one matrix; its live model does not."""
    base, adapter, merged = saved(tmp_path, TIED, {"target_modules": [target], "ensure_weight_tying": True})
    live = PeftModel.from_pretrained(model(*TIED[:2], **TIED[2]), adapter).eval()
    experts = experts_of(base, a=adapter)
    module = experts.tasks["a"].module
    with torch.no_grad():
        expected = live(**inputs_of(module)).logits
    torch.testing.assert_close(one_hot_logits(experts, "a"), expected, rtol=1e-5, atol=1e-5)
    theirs = logits(module, {name: merged[name] for name in experts.tasks["a"].weights.headers})
    assert (theirs - expected).abs().max() > 1e-2


def test_factors_that_count_twice_are_said(tmp_path):
    """PEFT adds those of the out_proj inside MultiheadAttention twice, in training too."""
    base, adapter, _ = saved(tmp_path, *KINDS["MultiheadAttention"])
    assert any("head.attention.out_proj count twice" in note for note in experts_of(base, a=adapter).notes)


OUT_PROJ = ("SiglipVisionModel", "", {}), {"target_modules": ["q_proj", "attention.out_proj"]}


@pytest.mark.parametrize("start", [True, "orthogonal"])
def test_what_peft_leaves_of_an_out_proj_alone_changes_nothing(tmp_path, start):
    """Its live model never calls it, so that its factors stay as they began, with the product 0."""
    family, options = OUT_PROJ
    base = model(*family[:2])
    base.save_pretrained(tmp_path / "base")
    live = get_peft_model(base, LoraConfig(r=4, init_lora_weights=start, **options)).train()
    live(**inputs_of(base)).pooler_output.square().sum().backward()
    gradients = {name: p.grad for name, p in live.named_parameters() if p.requires_grad}
    assert {name for name, one in gradients.items() if one is None} == {n for n in gradients if ".out_proj." in n}
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if gradients.get(name) is not None:
                parameter += 0.05
    live.save_pretrained(tmp_path / "adapter")
    experts = experts_of(tmp_path / "base", a=tmp_path / "adapter")
    assert any("(head.attention.out_proj) are 0, as before training" in note for note in experts.notes)
    with torch.no_grad():
        expected = live.eval()(**inputs_of(base)).pooler_output
    torch.testing.assert_close(one_hot_logits(experts, "a"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_bias_that_peft_leaves_out_while_rows_are_trained_is_said(tmp_path, bias):
    """Its live model has the trained rows of a linear layer without the layer's bias; its merge has it again."""
    start = model("BertForMaskedLM", "bert")
    start.cls.predictions.bias.data.fill_(bias)
    start.save_pretrained(tmp_path / "base")
    options = {"target_modules": ["query"], "trainable_token_indices": [1, 5]}
    trained(start, options).save_pretrained(tmp_path / "adapter")
    load = transformers.BertForMaskedLM.from_pretrained
    live = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    experts = experts_of(tmp_path / "base", a=tmp_path / "adapter")
    with torch.no_grad():
        in_training = live(**inputs_of(start)).logits
        expected = live.merge_and_unload()(**inputs_of(start)).logits
    torch.testing.assert_close(expected - in_training, torch.full_like(expected, bias), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one_hot_logits(experts, "a"), expected, rtol=1e-5, atol=1e-5)
    said = [note for note in experts.notes if "PEFT (0.21) leaves out its bias" in note]
    assert len(said) == bool(bias)
    assert all("rows of cls.predictions.decoder are trained" in note for note in said)


@pytest.mark.parametrize("kind", MLX)
def test_adapters_of_mlx(tmp_path, kind):
    """W + scale · (a b)ᵀ of linear layers, W + scale · a b of embeddings, as `fuse` of mlx-lm 0.32 computes.

    A Conv1D is a linear layer there, held transposed.
    """
    family, targets, more = MLX[kind]
    base, folder, expected = of_mlx(tmp_path, targets, family, **more)
    experts = experts_of(base, a=folder)
    check(experts, expected)
    assert any("quantised base (mlx-community/tiny-4bit)" in note for note in experts.notes)


SAID = {
    "another block has it": ({"num_layers": 2}, r"layers\.0\.mlp\.down_proj \(num_layers"),
    "it is named": (
        {"num_layers": 1, "lora_parameters": {"keys": ["self_attn.k_proj"]}},
        r"layers\.1\.self_attn\.k_proj",
    ),
    "another rank": ({"num_layers": 1, "lora_parameters": {"rank": 8}}, r"says rank 8 for .*rank 3.* mlx-lm would not"),
}


@pytest.mark.parametrize("kind", [*SAID, ""])
def test_factors_that_the_options_of_mlx_name_and_the_file_lacks_are_said(tmp_path, kind):
    """Of one block alone there is nothing to say."""
    base, folder, _ = of_mlx(tmp_path, "q_proj|down_proj")
    file, config = folder / "adapters.safetensors", folder / "adapter_config.json"
    save_file({name: one for name, one in load_file(file).items() if "0.mlp" not in name}, file)
    written, (options, words) = json.loads(config.read_text()), SAID.get(kind, ({"num_layers": 1}, "says|the file has"))
    parameters = {**written["lora_parameters"], **options.get("lora_parameters", {})}
    config.write_text(json.dumps({**written, **options, "lora_parameters": parameters}))
    assert any(re.search(words, note) for note in experts_of(base, a=folder).notes) == bool(kind)


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_of_a_mixture_as_mlx_has_them(tmp_path, kind):
    """W[e] + scale · b[e] a[e], with the experts stacked in `switch_mlp`, as `fuse` of mlx-lm 0.32 computes."""
    base, folder, expected = of_mlx_mixture(tmp_path, *MIXTURES[kind])
    experts = experts_of(base, a=folder)
    check(experts, expected)
    weights = experts.tasks["a"].weights
    assert all(weights.change(name).low_rank for name in weights.changed)


def test_the_document_lists_every_kind_and_no_other():
    """The command that writes it measures the differences; every kind is compared above."""
    assert differences().keys() == ALL.keys()
    assert max(differences().values()) <= 1e-5
