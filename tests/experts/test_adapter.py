"""Adapters as experts against PEFT's own merge, kind by kind, and every refusal by name."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.families import build
from torch import nn
from torch.func import functional_call

from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.low_rank import Adapted
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.grouping import row_blocks, task_wise, tensor_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import task_vectors
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError, IncompatibleExpertsError

LLAMA = ("LlamaForCausalLM", "llama", {"tie_word_embeddings": False})
KINDS = {
    "plain": (LLAMA, {"target_modules": ["q_proj", "v_proj"]}),
    "all linear": (LLAMA, {"target_modules": "all-linear"}),
    "rslora": (LLAMA, {"target_modules": ["q_proj"], "use_rslora": True}),
    "patterns": (
        LLAMA,
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"layers.1.mlp.down_proj": 32, "down_proj": 5},
        },
    ),
    "dora": (LLAMA, {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "embeddings": (LLAMA, {"target_modules": ["embed_tokens", "lm_head"]}),
    "module of its own": (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "token rows": (LLAMA, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5, 3]}),
    "bias": (("BertForSequenceClassification", "bert", {}), {"target_modules": ["query"], "bias": "all"}),
    "bias of lora layers": (
        ("BertForSequenceClassification", "bert", {}),
        {"target_modules": ["query", "output.dense"], "bias": "lora_only"},
    ),
    "bias of factors": (
        ("BertForSequenceClassification", "bert", {}),
        {"target_modules": ["query", "value"], "lora_bias": True},
    ),
    "head": (("BertForSequenceClassification", "bert", {}), {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    "Conv1D": (("GPT2LMHeadModel", "gpt2", {}), {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "convolution": (("ViTModel", "vit", {}), {"target_modules": ["projection", "q_proj"]}),
}


def trained(model, options, seed=1):
    """A PEFT model whose every trainable number was moved."""
    peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, **options}))
    generator = torch.Generator().manual_seed(seed)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return peft


def saved(folder, family, options, seed=1):
    """A base and an adapter in folders, and the weights after PEFT's own merge."""
    name, kind, more = family
    base = build(name, kind, 0, **more)
    base.save_pretrained(folder / "base")
    adapter = folder / f"adapter{seed}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on embeddings, ties and biases of factors
        trained(base, options, seed).save_pretrained(adapter)
        reloaded = PeftModel.from_pretrained(build(name, kind, 0, **more), adapter)
        return folder / "base", adapter, reloaded.merge_and_unload().eval().state_dict()


def experts_of(base, **adapters):
    opened = open_checkpoint(str(base))
    return from_checkpoints(opened, {name: open_expert(str(place), opened) for name, place in adapters.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_has_the_weights_of_pefts_merge(tmp_path, kind):
    family, options = KINDS[kind]
    base, adapter, expected = saved(tmp_path, family, options)
    experts = experts_of(base, a=adapter)
    found = experts.tasks["a"].weights
    assert isinstance(found, Adapted)
    assert found.changed
    for name in found.headers:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert any(kind_word in experts.notes[0] for kind_word in ("LoRA", "DoRA"))


@pytest.mark.parametrize("over", ["base", "another centre"])
@pytest.mark.parametrize("grouping", [task_wise, tensor_wise, None])
def test_factors_combine_and_project_as_dense_task_vectors_do(tmp_path, grouping, over):
    """Adapters of several kinds and a full checkpoint in one pool, against the dense differences, in fp64."""
    base, first, _ = saved(tmp_path, LLAMA, KINDS["all linear"][1], 1)
    _, second, _ = saved(tmp_path, LLAMA, KINDS["patterns"][1], 2)
    _, third, _ = saved(tmp_path, LLAMA, KINDS["dora"][1], 3)
    full = build(*LLAMA[:2], 7, **LLAMA[2])
    full.save_pretrained(tmp_path / "full")
    experts = experts_of(base, a=first, b=second, c=third, d=tmp_path / "full")
    names = experts.shared
    centre = experts.base
    if over != "base":
        centre = InMemory({name: experts.base[name] + 0.01 * torch.randn(experts.base.shape(name)) for name in names})
    factored = Factored(experts.weights, names, centre, experts.base, torch.float64)
    dense_experts = {
        task: InMemory({name: weights[name].double() for name in names}) for task, weights in experts.weights.items()
    }
    dense = Mapped(dense_experts, names, centre, centre, torch.float64)
    groups = row_blocks(factored.shapes, 3) if grouping is None else grouping(names)
    coefficients = torch.randn(len(groups), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    merged, expected = factored.combine(coefficients, groups), dense.combine(coefficients, groups)
    gradients = {name: torch.randn(shape, dtype=torch.float64) for name, shape in factored.shapes.items()}
    for name in names:
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(factored.stack(name), dense.stack(name), rtol=1e-5, atol=1e-7)
        exact = factored.combine_exactly(name, coefficients, groups.rows[name])
        torch.testing.assert_close(exact, expected[name], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(factored.inner(gradients, groups), dense.inner(gradients, groups), rtol=1e-4, atol=1e-4)


def test_no_dense_change_exists_while_learning(tmp_path, monkeypatch):
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["all linear"][1])
    experts = experts_of(base, a=adapter)
    vectors = task_vectors(experts, experts.tasks["a"].weights.changed, resident=None, room=10**12)
    monkeypatch.setattr(Adapted, "__getitem__", lambda *_: pytest.fail("a dense tensor was read"))
    groups = tensor_wise(tuple(vectors.shapes))
    merged = vectors.combine(torch.full((len(groups), 1), 0.5), groups)
    vectors.inner(merged, groups)


def test_one_hot_and_zeros_are_exact(tmp_path):
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["patterns"][1])
    experts = experts_of(base, a=adapter)
    vectors = task_vectors(experts, experts.shared)
    groups = task_wise(experts.shared)
    for name in experts.shared:
        zero = vectors.combine_exactly(name, torch.zeros(1, 1), groups.rows[name])
        assert torch.equal(zero.float(), experts.base[name])
        one = vectors.combine_exactly(name, torch.ones(1, 1), groups.rows[name])
        torch.testing.assert_close(one.float(), experts.tasks["a"].weights[name], rtol=1e-6, atol=1e-7)


def edited(folder, **options):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


REFUSED = {
    "another kind": ({"peft_type": "IA3"}, "IA3"),
    "AdapterHub": ({"peft_type": None, "model_class": "BertModel"}, "AdapterHub"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha"),
    "a start that changes the base": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "activated": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "replicated layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_change_of_weights_is_refused_by_name(tmp_path, kind):
    options, word = REFUSED[kind]
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["plain"][1])
    edited(adapter, **options)
    with pytest.raises(ConfigError, match=word):
        experts_of(base, a=adapter)


def drop(tensors, word):
    return {key: value for key, value in tensors.items() if word not in key or "layers.0" not in key}


BROKEN = {
    "no partner": (lambda t: drop(t, "lora_B"), "has no partner"),
    "no place": (
        lambda t: {
            **t,
            "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(4, 4),
            "base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight": torch.ones(4, 4),
        },
        "has no place",
    ),
    "wrong shape": (
        lambda t: {k: v[:, :3].contiguous() if "lora_A" in k else v for k, v in t.items()},
        "has the shape",
    ),
    "rank 0": (lambda t: {k: v[:0] if "lora_A" in k else v[:, :0].contiguous() for k, v in t.items()}, "has the shape"),
    "unknown tensor": (lambda t: {**t, "base_model.model.model.layers.0.strange": torch.ones(2)}, "has no place"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, kind):
    change, word = BROKEN[kind]
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["plain"][1])
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises((ConfigError, IncompatibleExpertsError), match=word):
        experts_of(base, a=adapter)


def test_factors_on_one_side_of_tied_embeddings_are_refused(tmp_path):
    family = ("LlamaForCausalLM", "llama", {"tie_word_embeddings": True})
    base, adapter, _ = saved(tmp_path, family, {"target_modules": ["embed_tokens"]})
    with pytest.raises(IncompatibleExpertsError, match="tied"):
        experts_of(base, a=adapter)


def test_an_adapter_is_no_base(tmp_path):
    _, adapter, _ = saved(tmp_path, LLAMA, KINDS["plain"][1])
    with pytest.raises(ConfigError, match="base must be complete"):
        open_checkpoint(str(adapter))


def test_alpha_patterns_that_contradict_each_other_are_said(tmp_path):
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["patterns"][1])
    assert any(
        "alpha_pattern" in note and "layers.1.mlp.down_proj" in note for note in experts_of(base, a=adapter).notes
    )


def test_logits_are_those_of_peft(tmp_path):
    base, adapter, expected = saved(tmp_path, ("BertForSequenceClassification", "bert", {}), KINDS["head"][1])
    experts = experts_of(base, a=adapter)
    ids = torch.arange(5).unsqueeze(0)
    module: nn.Module = experts.tasks["a"].module
    with torch.no_grad():
        ours = functional_call(module, experts.state_of("a"), (ids,)).logits
        theirs = functional_call(module, expected, (ids,)).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
