"""Bases and experts in memory: modules, state dicts and checkpoints, a bare backbone as base included."""

import logging

import peft
import pytest
import torch
import transformers
from support.families import build

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.from_modules import from_modules
from adamerge.types import IncompatibleExpertsError

FAMILIES = [
    ("BertModel", "BertForSequenceClassification", "bert", 3),
    ("ViTModel", "ViTForImageClassification", "vit", 3),
    ("DistilBertModel", "DistilBertForSequenceClassification", "distilbert", 3),
    ("LlamaModel", "LlamaForSequenceClassification", "llama", 3),
]


def given(model, form, folder):
    """Return a model as a module, a state dict or a checkpoint."""
    if form == "checkpoint":
        model.save_pretrained(folder)
        return open_checkpoint(str(folder))
    return model if form == "module" else model.state_dict()


@pytest.mark.parametrize(
    "forms", [("module", "module"), ("state", "state"), ("module", "state"), ("checkpoint", "module")]
)
@pytest.mark.parametrize(("backbone", "architecture", "family", "labels"), FAMILIES)
def test_experts_in_memory_are_divided_as_from_disk(tmp_path, backbone, architecture, family, labels, forms):
    base = build(backbone, family, 0)
    models = {name: build(architecture, family, seed, num_labels=labels) for seed, name in enumerate("ab", 1)}
    disk = from_checkpoints(
        given(base, "checkpoint", tmp_path / "base"),
        {name: given(model, "checkpoint", tmp_path / name) for name, model in models.items()},
    )
    memory = from_modules(
        base, {n: given(m, form, tmp_path / n) for (n, m), form in zip(models.items(), forms, strict=True)}
    )
    assert memory.shared == disk.shared
    for task, expert in memory.tasks.items():
        assert expert.head == disk.tasks[task].head
        assert expert.kind == disk.tasks[task].kind
        assert all(torch.equal(expert.weights[n], disk.tasks[task].weights[n]) for n in (*disk.shared, *expert.head))
    assert all(torch.equal(memory.base[name], disk.base[name]) for name in disk.shared)
    assert memory.head_of_base == disk.head_of_base


def test_a_tensor_without_a_place_is_rejected_for_transformers_models_too():
    state = dict(build("BertForSequenceClassification", "bert", 1).state_dict())
    state["bert.encoder.extra.weight"] = torch.ones(3)
    with pytest.raises(IncompatibleExpertsError, match=r"no place for the tensor bert.encoder.extra.weight"):
        from_modules(build("BertModel", "bert", 0), {"a": state})


FNET = {
    "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 40, "num_labels": 5,
    "pad_token_id": 0,
}  # fmt: skip
KINDS = ["FNetForSequenceClassification", "FNetForTokenClassification"]


@pytest.mark.parametrize("architecture", KINDS)
def test_a_state_dict_that_fits_two_classes_is_refused(architecture):
    """A classifier of tokens may have the tensors of a classifier of rows."""
    base = transformers.FNetModel(transformers.FNetConfig(**FNET))
    expert = getattr(transformers, architecture)(base.config)
    with pytest.raises(IncompatibleExpertsError, match=rf"a: .* fit {KINDS[0]} and {KINDS[1]}.* give the module"):
        from_modules(base, {"a": expert.state_dict()})
    with pytest.raises(IncompatibleExpertsError, match=r"a: .* give the module"):
        from_modules(base, {"a": expert.state_dict(), "b": expert})
    assert type(from_modules(base, {"a": expert}).tasks["a"].module).__name__ == architecture
    of_base = from_modules(getattr(transformers, architecture)(base.config), {"a": expert.state_dict()})
    assert type(of_base.tasks["a"].module).__name__ == architecture


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "BertForTokenClassification"])
def test_a_state_dict_that_fits_one_class_has_that_class(architecture, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [caplog.handler])
    caplog.set_level("WARNING", "transformers")
    base, expert = build("BertModel", "bert", 0), build(architecture, "bert", 1, num_labels=3)
    assert type(from_modules(base, {"a": expert.state_dict()}).tasks["a"].module).__name__ == architecture
    assert not caplog.messages  # BertLMHeadModel, which is tried too, advises its users to set is_decoder


def test_the_class_of_a_state_dict_is_said():
    base = build("BertModel", "bert", 0)
    expert = build("BertForSequenceClassification", "bert", 1)
    assert from_modules(base.state_dict(), {"a": expert}).notes[0] == (
        "base: a state dict, which has no class; it is read as a's, BertForSequenceClassification."
    )
    found = from_modules(base, {"a": expert.state_dict()}).notes
    assert found == (
        "a: a state dict, which has no class; its tensors fit BertForSequenceClassification, and not the base's "
        "BertModel.",
    )
    assert not from_modules(base, {"a": expert}).notes


WRAPPERS = {
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "parallel": torch.nn.DataParallel,
    "both": lambda module: torch.compile(torch.nn.DataParallel(module), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_of_torch_are_passed_over(wrapper):
    models = [build("BertForSequenceClassification", "bert", seed, num_labels=3) for seed in range(3)]
    plain = from_modules(models[0], {"a": models[1], "b": models[2]})
    base, first, second = (WRAPPERS[wrapper](model) for model in models)
    for found in (from_modules(base, {"a": first, "b": second}), from_modules(models[0], {"a": first, "b": models[2]})):
        assert found.shared == plain.shared
        assert {task: expert.head for task, expert in found.tasks.items()} == {
            t: e.head for t, e in plain.tasks.items()
        }
        assert found.tasks["a"].kind == plain.tasks["a"].kind


@pytest.mark.parametrize("where", ["base", "a"])
def test_a_module_with_an_adapter_in_it_is_refused(where):
    models = [build("BertForSequenceClassification", "bert", seed) for seed in range(2)]
    options = peft.LoraConfig(target_modules=["query"], r=2)
    models[where == "a"] = peft.get_peft_model(models[where == "a"], options)
    with pytest.raises(IncompatibleExpertsError, match=rf"{where}: .*adapter of PEFT in it .*merge_and_unload"):
        from_modules(models[0], {"a": models[1]})
