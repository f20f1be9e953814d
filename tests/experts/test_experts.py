"""Matching of base and experts by name: nothing is dropped, added or merged by mistake."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.families import Tiny, build, save_family

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.from_modules import from_modules
from adamerge.experts.name_patterns import Split
from adamerge.experts.summary import describe
from adamerge.types import IncompatibleExpertsError

QUERY = "encoder.layer.0.attention.self.query.weight"


def edit(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def save(folder, base, expert, family, **more):
    """Save a base and the experts a and b."""
    models = {name: build(expert, family, seed, **more) for seed, name in enumerate("ab", 1)}
    save_family(folder, build(base, family, 0, **more), models)


def together(folder, split=None):
    opened = {name: open_checkpoint(str(folder / name)) for name in ("base", "a", "b")}
    return from_checkpoints(opened.pop("base"), opened, split)


def test_experts_of_another_class_than_each_other_are_refused_in_one_line_each(tmp_path):
    save(tmp_path, "BertModel", "BertForSequenceClassification", "bert")
    base, other = (open_checkpoint(str(tmp_path / name)) for name in ("base", "a"))
    with pytest.raises(IncompatibleExpertsError) as refused:
        from_checkpoints(base, {"same": base, "a": other})
    first, second = str(refused.value).splitlines()
    assert first.startswith("same: expected every expert to have the parameters embeddings.word_embeddings.weight, ")
    assert second.startswith("a: expected every expert to have the parameters bert.embeddings.word_embeddings.weight, ")
    assert "more, but some lack them; add them to parameters.head, or take experts of one class." in second


# --- tied weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["base", "a"])
def test_tied_weights_that_differ_in_a_file_are_two_parameters_of_all_and_said(tmp_path, who):
    save(tmp_path, "LlamaForCausalLM", "LlamaForCausalLM", "llama", tie_word_embeddings=True)
    embeddings, head = "model.embed_tokens.weight", "lm_head.weight"
    edit(tmp_path / who, lambda t: t.update({head: t[embeddings].clone()}))
    experts = together(tmp_path)
    assert embeddings in experts.shared  # stored twice with equal values: one parameter
    assert head not in experts.shared
    assert not experts.notes
    edit(tmp_path / who, lambda t: t[head].mul_(2))
    experts = together(tmp_path)
    assert {embeddings, head} < set(experts.shared)
    assert not experts.tasks["a"].head
    assert any(head in note and "not in all files" in note for note in experts.notes)
    for name, weights in {"base": experts.base, **experts.weights}.items():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert torch.equal(weights[embeddings], theirs.model.embed_tokens.weight), name
        assert torch.equal(weights[head], theirs.lm_head.weight), name


def test_configurations_that_tie_differently_are_merged_untied_and_said(tmp_path):
    save(tmp_path, "LlamaForCausalLM", "LlamaForCausalLM", "llama", tie_word_embeddings=True)
    build("LlamaForCausalLM", "llama", 5, tie_word_embeddings=False).save_pretrained(tmp_path / "b")
    experts = together(tmp_path)
    assert {"model.embed_tokens.weight", "lm_head.weight"} < set(experts.shared)
    assert torch.equal(experts.weights["a"]["lm_head.weight"], experts.weights["a"]["model.embed_tokens.weight"])
    assert not torch.equal(experts.weights["b"]["lm_head.weight"], experts.weights["b"]["model.embed_tokens.weight"])
    assert any("lm_head.weight" in note for note in experts.notes)


@pytest.mark.parametrize("who", [("a",), ("base",), ("base", "a", "b")])
def test_a_missing_output_embedding_is_read_from_the_input_embedding_and_said(tmp_path, who):
    save(tmp_path, "LlamaForCausalLM", "LlamaForCausalLM", "llama", tie_word_embeddings=False)
    for name in who:
        edit(tmp_path / name, lambda t: t.pop("lm_head.weight"))
    experts = together(tmp_path)
    assert "lm_head.weight" in experts.shared
    for name, weights in {"base": experts.base, **experts.weights}.items():
        assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"]) is (name in who)
        noted = [note for note in experts.notes if note.startswith(f"{tmp_path / name}: the file lacks lm_head.weight")]
        assert len(noted) == (name in who)


def test_a_backbone_as_base_has_no_output_embedding_to_read(tmp_path):
    save(tmp_path, "LlamaModel", "LlamaForCausalLM", "llama", tie_word_embeddings=False)
    experts = together(tmp_path)
    assert "lm_head.weight" not in experts.base
    assert experts.tasks["a"].head == ("lm_head.weight",)


def test_tied_weights_that_differ_in_a_state_dict_are_rejected():
    state = dict(Tiny(1).state_dict())
    assert from_modules(Tiny(0), {"a": state}).shared
    state["again.weight"] = state["again.weight"] + 1
    with pytest.raises(IncompatibleExpertsError, match=r"a: second.weight and again.weight are one tied parameter"):
        from_modules(Tiny(0), {"a": state})


def test_a_state_dict_may_contain_a_tied_weight_once_under_any_name():
    state = dict(Tiny(1).state_dict())
    del state["second.weight"]
    assert torch.equal(from_modules(Tiny(0), {"a": state}).weights["a"]["second.weight"], state["again.weight"])


# --- names without a place ------------------------------------------------------------------------------------------


def test_every_missing_and_unexpected_name_of_a_state_dict_is_listed():
    lacking, extra = dict(Tiny(1).state_dict()), dict(Tiny(2).state_dict())
    del lacking["scale"]
    extra |= {"extra.weight": torch.ones(3), "secnd.weight": torch.ones(5)}
    with pytest.raises(IncompatibleExpertsError) as error:
        from_modules(Tiny(0), {"a": lacking, "b": extra})
    assert str(error.value).splitlines() == [
        "a: the state dict has no tensor for scale of Tiny.",
        "b: Tiny has no place for the tensor extra.weight in the state dict.",
        "b: Tiny has no place for the tensor secnd.weight in the state dict.",
    ]


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_quantised_base_is_rejected(tmp_path, dtype):
    save(tmp_path, "BertModel", "BertForSequenceClassification", "bert")
    edit(tmp_path / "base", lambda t: t.update({QUERY: t[QUERY].to(dtype)}))
    with pytest.raises(IncompatibleExpertsError, match=f"base: bert.{QUERY} is quantised .{dtype}"):
        together(tmp_path)


# --- tensors missing in the base -------------------------------------------------------------------------------------


def misname(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


@pytest.mark.parametrize(
    ("expert", "prefix"), [("BertForSequenceClassification", "bert."), ("BertModel", "")], ids=["prefix", "whole"]
)
def test_a_misnamed_tensor_of_the_base_does_not_become_a_head(tmp_path, expert, prefix):
    save(tmp_path, "BertModel", expert, "bert")
    edit(tmp_path / "base", misname(QUERY, QUERY.replace("query", "qry")))
    with pytest.raises(IncompatibleExpertsError) as error:
        together(tmp_path)
    assert str(error.value).count("\n") == 0  # once, not for every expert
    assert f"base: the base lacks {prefix}{QUERY}, which is inside the backbone. It has" in str(error.value)
    assert QUERY.replace("query", "qry") in str(error.value)
    own = together(tmp_path, Split(head=["*layer.0.attention.self.query.weight"]))
    assert prefix + QUERY in own.tasks["a"].head


@pytest.mark.parametrize(
    ("base", "expert", "family", "name"),
    [
        ("LlamaModel", "LlamaForSequenceClassification", "llama", "norm.weight"),
        ("BertModel", "BertForSequenceClassification", "bert", "pooler.dense.weight"),
    ],
)
def test_a_missing_tensor_that_is_a_whole_part_or_half_of_one_is_reported(tmp_path, base, expert, family, name):
    save(tmp_path, base, expert, family)
    edit(tmp_path / "base", misname(name, "misnamed"))
    with pytest.raises(IncompatibleExpertsError, match=rf"the base lacks \w+.{name}.* It has misnamed"):
        together(tmp_path)


def test_a_part_missing_in_the_base_stays_the_experts_own(tmp_path):
    save(tmp_path, "BertForMaskedLM", "BertForSequenceClassification", "bert")  # has no pooler, but predictions
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert pooler < set(together(tmp_path).tasks["a"].head)
    save(tmp_path, "BertModel", "BertForSequenceClassification", "bert")
    edit(tmp_path / "base", lambda t: [t.pop(name) for name in ("pooler.dense.weight", "pooler.dense.bias")])
    assert pooler < set(together(tmp_path).tasks["a"].head)


# --- patterns --------------------------------------------------------------------------------------------------------


def test_a_pattern_that_matches_nothing_is_rejected(tmp_path):
    save(tmp_path, "BertModel", "BertForSequenceClassification", "bert")
    with pytest.raises(IncompatibleExpertsError) as error:
        together(tmp_path, Split(head=["*.poler.*"], base=["embedings*", "*.embeddings.*"]))
    first, second = str(error.value).splitlines()
    assert first.startswith(
        "parameters.head: *.poler.* matches no parameter. The most similar names are bert.pooler.dense.weight, "
    )
    assert second.startswith(
        "parameters.base: embedings* matches no parameter. The most similar names are bert.embeddings."
    )
    with pytest.raises(IncompatibleExpertsError, match=r"parameters.head: firts.\* matches no parameter"):
        from_modules(Tiny(0), {"a": Tiny(1)}, Split(head=["firts.*"]))


# --- configurations --------------------------------------------------------------------------------------------------


def reconfigure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("expert", "family", "changes", "words"),
    [
        ("LlamaForCausalLM", "llama", {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 4},
         "head_dim is 4 in the expert's config.json and 8 in the base's; num_attention_heads is 4"),
        ("LlamaForCausalLM", "llama", {"rope_parameters__rope_theta": 500.0},
         "rope_parameters.rope_theta is 500.0 in the expert's config.json and 10000.0 in the base's. "),
        ("BertModel", "bert", {"layer_norm_eps": 1e-5, "hidden_act": "relu"},
         "hidden_act is relu in the expert's config.json and gelu in the base's; layer_norm_eps is 1e-05"),
        ("CLIPModel", "clip", {"vision_config__hidden_act": "gelu"},
         "vision_config.hidden_act is gelu in the expert's config.json and quick_gelu in the base's"),
    ],
)  # fmt: skip
def test_configurations_that_change_the_computation_cause_warnings(tmp_path, expert, family, changes, words):
    save(tmp_path, expert, expert, family)
    assert not together(tmp_path).warnings
    reconfigure(tmp_path / "b", **changes)
    (warning,) = together(tmp_path).warnings
    assert warning.startswith(f"b ({tmp_path / 'b'}): {words}")
    assert f"warning: {warning}" in describe(together(tmp_path))


def test_settings_of_a_task_cause_no_warning(tmp_path):
    save(tmp_path, "BertModel", "BertForSequenceClassification", "bert")
    reconfigure(
        tmp_path / "a", dtype="bfloat16", classifier_dropout=0.3, hidden_dropout_prob=0.0, pad_token_id=1,
        id2label={"0": "x", "1": "y", "2": "z"}, label2id={"x": 0, "y": 1, "z": 2}, finetuning_task="x",
        problem_type="single_label_classification", transformers_version="4.0.0", use_cache=False,
    )  # fmt: skip
    edit(
        tmp_path / "a",
        lambda t: t.update({"classifier.weight": torch.ones(3, 16), "classifier.bias": torch.ones(3)}),
    )
    assert not together(tmp_path).warnings


# --- what the base lacks of its own class ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "expert", "family", "part"),
    [
        ("ViTForImageClassification", "ViTForImageClassification", "vit", "layer"),
        ("ViTModel", "ViTForImageClassification", "vit", "layer"),
        ("BertForMaskedLM", "BertForSequenceClassification", "bert", "encoder"),
        ("LlamaForCausalLM", "LlamaForSequenceClassification", "llama", "layers"),
        ("CLIPForImageClassification", "CLIPForImageClassification", "clip", "encoder"),
    ],
)
def test_a_base_without_a_part_of_its_own_class_is_rejected(tmp_path, base, expert, family, part):
    save(tmp_path, base, expert, family)
    edit(tmp_path / "base", lambda t: [t.pop(name) for name in list(t) if part in name.split(".")])
    with pytest.raises(IncompatibleExpertsError, match=r"base: the base lacks .* more, which is inside the backbone"):
        together(tmp_path)


def test_a_base_may_lack_its_own_classifier_and_says_so(tmp_path):
    save(tmp_path, "BertForSequenceClassification", "BertForSequenceClassification", "bert")
    edit(tmp_path / "base", lambda t: [t.pop(name) for name in ("classifier.weight", "classifier.bias")])
    experts = together(tmp_path)
    assert experts.tasks["a"].head == ("classifier.weight", "classifier.bias")
    assert experts.lacking == ("classifier.weight", "classifier.bias")
    (note,) = experts.notes
    assert "the base lacks classifier.weight, classifier.bias of its own class BertForSequenceClassification" in note
    assert f"note: {note}" in describe(experts)


def test_a_tensor_without_a_place_is_passed_over_if_it_equals_the_bases(tmp_path):
    save(tmp_path, "GPT2LMHeadModel", "GPT2LMHeadModel", "gpt2")
    masked = {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    for name in ("base", "a", "b"):
        edit(tmp_path / name, lambda t: t.update(masked))
    assert sum("masked_bias have no place" in note for note in together(tmp_path).notes) == 2
    edit(tmp_path / "a", lambda t: t["transformer.h.0.attn.masked_bias"].add_(1))
    with pytest.raises(IncompatibleExpertsError, match=r"a: GPT2LMHeadModel has no place for .*masked_bias"):
        together(tmp_path)
