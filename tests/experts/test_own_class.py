"""The class of a checkpoint whose config.json names none, from the tensors in its files."""

import json

import pytest
from support.families import build

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.own_class import dispensable, own_module
from adamerge.experts.skeleton import skeleton


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("BertModel", "bert"),
        ("BertForSequenceClassification", "bert"),
        ("BertForMaskedLM", "bert"),
        ("ViTForImageClassification", "vit"),
        ("LlamaForCausalLM", "llama"),
        ("LlamaForSequenceClassification", "llama"),
        ("ResNetForImageClassification", "resnet"),
        ("BartForConditionalGeneration", "bart"),
        ("RobertaForSequenceClassification", "roberta"),
        ("GPT2LMHeadModel", "gpt2"),  # whose head is tied, and in no file
        ("GPT2Model", "gpt2"),
    ],
)
def test_the_class_is_found_from_the_heads_in_the_file(tmp_path, architecture, family):
    save_without_class(architecture, family, tmp_path)
    assert type(own_module(open_checkpoint(str(tmp_path)))).__name__ == architecture


def save_without_class(architecture, family, folder):
    build(architecture, family, 0, **({"num_labels": 3} if "Class" in architecture else {})).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("architecture", "family", "of_base", "found"),
    [
        ("T5ForConditionalGeneration", "t5", "T5ForConditionalGeneration", "T5ForConditionalGeneration"),
        ("GPT2Model", "gpt2", "GPT2LMHeadModel", "GPT2LMHeadModel"),
        ("BertModel", "bert", "BertForMaskedLM", "BertModel"),
        ("BertForMaskedLM", "bert", "BertModel", "BertForMaskedLM"),
    ],
)
def test_a_class_that_no_file_names_is_the_bases_if_the_tensors_fit_it(tmp_path, architecture, family, of_base, found):
    save_without_class(architecture, family, tmp_path / "expert")
    build(of_base, family, 0).save_pretrained(tmp_path / "base")
    base, expert = (open_checkpoint(str(tmp_path / name)) for name in ("base", "expert"))
    assert type(own_module(expert, base)).__name__ == found
    notes = from_checkpoints(base, {"a": expert}).notes
    assert any(f"names no class (architectures): it is read as {found}," in note for note in notes)


def test_classes_that_may_be_saved_without_a_pooler():
    config = build("BertModel", "bert", 0).config
    assert dispensable(skeleton(config, "BertModel")) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert dispensable(skeleton(config, "BertForSequenceClassification")) == set()
