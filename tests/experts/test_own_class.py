"""The class of a checkpoint whose config.json names none, from the tensors in its files."""

import json

import pytest
from support.families import build

from adamerge.experts.checkpoint import open_checkpoint, skeleton
from adamerge.experts.own_class import dispensable, own_module


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
    ],
)
def test_the_class_is_found_from_the_heads_in_the_file(tmp_path, architecture, family):
    build(architecture, family, 0, **({"num_labels": 3} if "Class" in architecture else {})).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(own_module(open_checkpoint(str(tmp_path)))).__name__ == architecture


def test_classes_that_may_be_saved_without_a_pooler():
    config = build("BertModel", "bert", 0).config
    assert dispensable(skeleton(config, "BertModel")) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert dispensable(skeleton(config, "BertForSequenceClassification")) == set()
