"""What a model predicts, found by a run without weights."""

import pytest
import torch
import transformers
from support.families import build
from support.mixtures import MIXTURES, SMALL

from adamerge.experts import model_kind
from adamerge.experts.model_kind import classes_by_token, kind_of, trial
from adamerge.experts.skeleton import skeleton
from adamerge.types import ConfigError


@pytest.mark.parametrize("small", [0, model_kind.SMALL])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixture_is_tried_without_weights(architecture, small, monkeypatch):
    monkeypatch.setattr(model_kind, "SMALL", small)
    config = getattr(transformers, architecture).config_class(**{**SMALL, **MIXTURES[architecture]})
    module = skeleton(config, architecture)
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 6]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    assert trial(module, inputs).logits.shape == (1, 4, 40)
    assert classes_by_token(module, kind_of(module), inputs, "a")
    assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize(
    ("architecture", "family", "most"), [("RobertaModel", "roberta", 509), ("BertModel", "bert", 512)]
)
def test_positions_that_padding_takes_hold_no_token(architecture, family, most):
    """The tiny RoBERTa pads with token 2, so that its positions begin at 3."""
    module = build(architecture, family, 0)
    limit = kind_of(module).max_positions
    assert limit == most
    module(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        module(torch.full((1, limit + 1), 5))


def test_outputs_without_names_are_explained():
    """`return_dict: ""` in config.json makes a class of transformers return a tuple."""
    module = build("BertForSequenceClassification", "bert", 0, return_dict="")
    with pytest.raises(
        ConfigError, match=r"mood: Bert\w+ returns no logits\. .*remove return_dict and torchscript from"
    ):
        classes_by_token(module, kind_of(module), {"input_ids": torch.tensor([[3, 4]])}, "mood")


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2"), ("BertForSequenceClassification", "bert")],
)
def test_a_large_model_is_tried_on_the_meta_device(architecture, family, monkeypatch):
    """Zeros on the CPU take a whole forward pass, and memory for the largest matrix."""
    monkeypatch.setattr(model_kind, "SMALL", 0)
    module = build(architecture, family, 0)
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 6]] * 2), "attention_mask": torch.ones(2, 4, dtype=torch.int64)}
    assert trial(module, inputs).logits.is_meta
