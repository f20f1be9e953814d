"""Exports of files that differ from config.json in tying, of bases that lack something, and of former names."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.families import build, save_family
from support.loaded import load, names
from support.renamed import model_of

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export


def exported(folder, architecture, coefficient=0.3):
    """Merge what is in `folder`, export it, and load it and the unmerged checkpoints as transformers does."""
    experts = from_checkpoints(*(opened := [open_checkpoint(str(folder / n)) for n in ("base", "a", "b")])[:1],
                               dict(zip("ab", opened[1:], strict=True)))  # fmt: skip
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    found = export(model, torch.full((len(model.grouping), 2), coefficient), folder / "merged")
    cls = getattr(transformers, architecture)
    return [cls.from_pretrained(place).eval() for place in (found.folder, *(folder / n for n in ("base", "a", "b")))]


@pytest.mark.parametrize("apart", ["base", "a", "all"])
@pytest.mark.parametrize(
    ("architecture", "family", "tied"),
    [
        ("LlamaForCausalLM", "llama", True),
        ("LlamaForCausalLM", "llama", False),
        ("T5ForConditionalGeneration", "t5", True),
        ("T5ForConditionalGeneration", "t5", False),  # what a config.json says here decides about a factor too
    ],
)
def test_embeddings_are_merged_as_transformers_loads_them_whatever_config_says(
    tmp_path, apart, architecture, family, tied
):
    for seed, name in enumerate(("base", "a", "b")):
        model = build(architecture, family, seed, tie_word_embeddings=tied)
        model.save_pretrained(tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        tensors = load_file(file)
        embeddings = "shared.weight" if family == "t5" else "model.embed_tokens.weight"
        if apart in (name, "all"):
            tensors["lm_head.weight"] = torch.randn_like(tensors[embeddings]) * 0.2
        save_file(tensors, file, {"format": "pt"})
    merged, *models = exported(tmp_path, architecture)
    states = [{**model.state_dict()} for model in models]
    base = models[0]
    expected = {n: v + 0.3 * sum(s[n] - v for s in states[1:]) for n, v in states[0].items()}
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    with torch.no_grad():
        for name, value in expected.items():
            path, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(path), leaf, torch.nn.Parameter(value))
        ids = torch.randint(3, 40, (2, 5))
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if family == "t5" else {})}
        torch.testing.assert_close(merged(**inputs).logits, base(**inputs).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", ["classifier", "pooler"])
def test_a_base_without_its_classifier_or_pooler_is_exported_without_it(tmp_path, what):
    base = build("BertForSequenceClassification" if what == "classifier" else "BertModel", "bert", 0)
    paths = save_family(
        tmp_path, base, {t: build("BertForSequenceClassification", "bert", s) for s, t in enumerate("ab", 1)}
    )
    tensors = load_file(tmp_path / "base/model.safetensors")
    save_file(
        {n: t for n, t in tensors.items() if what not in n}, tmp_path / "base/model.safetensors", {"format": "pt"}
    )
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    assert any(what in name for name in experts.lacking)
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    found = export(model, torch.full((len(model.grouping), 2), 0.5), tmp_path / "merged")
    load("BertForSequenceClassification", found.checkpoints["a"])
    _, info = type(base).from_pretrained(found.folder, output_loading_info=True)
    assert {str(name) for name in info["missing_keys"]} == set(experts.lacking)


@pytest.mark.parametrize("who", ["base", "a", "b"])
def test_old_names_are_exported_in_todays(tmp_path, who):
    base = build("BertForPreTraining", "bert", 0)
    paths = save_family(
        tmp_path, base, {t: build("BertForSequenceClassification", "bert", s) for s, t in enumerate("ab", 1)}
    )
    file = tmp_path / who / "model.safetensors"
    today = load_file(file)
    old = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for n, t in today.items()}
    assert old.keys() != today.keys()
    save_file(old, file, {"format": "pt"})
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    found = export(model, torch.full((len(model.grouping), 2), 0.5), tmp_path / "merged")
    written = {name for path in found.folder.rglob("*.safetensors") for name in load_file(path)}
    assert not any(name.endswith(("gamma", "beta")) for name in written)
    load("BertForSequenceClassification", found.checkpoints["a"])
    load("BertForPreTraining", found.folder)


def test_tensors_of_no_class_are_exported_in_todays_names_too(tmp_path):
    base = build("BertModel", "bert", 0)
    save_family(tmp_path, base, {task: build("BertModel", "bert", seed) for seed, task in enumerate("ab", 1)})
    file = tmp_path / "base/model.safetensors"
    head = {f"cls.transform.LayerNorm.{name}": torch.rand(16) for name in ("gamma", "beta")}
    save_file({**load_file(file), **head, "cls.bias": torch.ones(3)}, file, {"format": "pt"})
    exported(tmp_path, "BertModel")
    found = {n: t for path in (tmp_path / "merged").glob("*.safetensors") for n, t in load_file(path).items()}
    assert {name for name in found if "cls" in name} == {
        "cls.transform.LayerNorm.weight",
        "cls.transform.LayerNorm.bias",
        "cls.bias",
    }
    assert torch.equal(found["cls.transform.LayerNorm.weight"], head["cls.transform.LayerNorm.gamma"])


def test_a_second_name_of_a_tied_parameter_in_the_bases_head_is_not_exported(tmp_path):
    base = build("BertForMaskedLM", "bert", 0)
    tasks = {t: build("BertForSequenceClassification", "bert", s) for s, t in enumerate("ab", 1)}
    save_family(tmp_path, base, tasks)
    file = tmp_path / "base/model.safetensors"
    tensors = load_file(file)
    twice = {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone()}
    save_file({**tensors, **twice}, file, {"format": "pt"})
    merged, *_ = exported(tmp_path, "BertForMaskedLM")
    assert names(tmp_path / "merged") == tensors.keys()
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight


@pytest.mark.parametrize("new", ["base", "a", "all", "none"])
@pytest.mark.parametrize("architecture", ["LlavaForConditionalGeneration", "PaliGemmaForConditionalGeneration"])
def test_both_namings_of_a_family_are_one_model(tmp_path, architecture, new):
    models = {name: model_of(architecture, seed) for seed, name in enumerate(("base", "a", "b"))}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        if new in (name, "all"):
            stored = {id(t): n for n, t in model.named_parameters()}
            own = {stored[id(t)]: t.detach().clone() for t in model.parameters()}
            assert own.keys() != load_file(file).keys()
            save_file(own, file, {"format": "pt"})
    merged, *loaded = exported(tmp_path, architecture)
    states = [model.state_dict() for model in loaded]
    for (name, value), *others in zip(states[0].items(), *(state.items() for state in states[1:]), strict=True):
        expected = value + 0.3 * sum(other - value for _, other in others)
        torch.testing.assert_close(merged.state_dict()[name], expected, rtol=1e-5, atol=1e-6, msg=name)
        assert torch.equal(value, models["base"].state_dict()[name])
