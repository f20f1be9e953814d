"""What a model predicts, found by a run without weights."""

import pytest
import torch
import transformers
from support.mixtures import MIXTURES, SMALL

from adamerge.experts.checkpoint import skeleton
from adamerge.experts.model_kind import classes_by_token, kind_of, trial


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixture_is_tried_without_weights(architecture):
    config = getattr(transformers, architecture).config_class(**{**SMALL, **MIXTURES[architecture]})
    module = skeleton(config, architecture)
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 6]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    assert trial(module, inputs).logits.shape == (1, 4, 40)
    assert classes_by_token(module, kind_of(module), inputs, "a")
    assert all(parameter.is_meta for parameter in module.parameters())
