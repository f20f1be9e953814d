"""Weights that a class reads itself are those of which PEFT's live model and its merge differ."""

import copy
from functools import cache

import pytest
import torch
import transformers
from families.others import OTHERS
from families.sweep import answer, row_of
from families.table import TABLE, TOKENS, Family
from peft import LoraConfig, get_peft_model
from support.adapters import experts_of
from torch import nn

from adamerge.experts.read_elsewhere import reads_of
from adamerge.experts.skeleton import skeleton

MEMBERS = {one.architecture: one for one in (*OTHERS, *TABLE)}
MEMBERS["DebertaV2ForMaskedLM"] = Family(
    "DebertaV2ForMaskedLM", {**TOKENS, "relative_attention": True, "legacy": False}
)

LAYERS = {
    "JambaForSequenceClassification": ("mamba.in_proj", "mamba.dt_proj", "q_proj", "embed_tokens"),
    "FalconMambaForCausalLM": ("mixer.x_proj", "mixer.dt_proj"),
    "LayoutLMv3ForSequenceClassification": ("query", "rel_pos_bias", "word_embeddings"),
    "DebertaV2ForMaskedLM": ("query_proj", "deberta.embeddings.word_embeddings"),
    "RwkvForCausalLM": ("attention.output", "feed_forward.value"),
    "WavLMForCTC": ("0.attention.q_proj", "feature_projection.projection"),
    "T5ForSequenceClassification": ("relative_attention_bias", "wo"),  # it looks for the end of a text
}


@cache
def base(architecture):
    return MEMBERS[architecture].build(0)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")
@pytest.mark.parametrize(("architecture", "layer"), [(name, one) for name, layers in LAYERS.items() for one in layers])
def test_factors_count_in_training_unless_the_class_reads_the_weight(architecture, layer):
    module, row = base(architecture), row_of(MEMBERS[architecture])
    path = next(name for name, _ in module.named_modules() if f".{name}".endswith(f".{layer}"))
    live = get_peft_model(copy.deepcopy(module), LoraConfig(target_modules=[path], init_lora_weights=False)).eval()
    in_training, merged = answer(live, row), answer(live.merge_and_unload(), row)
    assert (merged - answer(module, row)).abs().max() > 1e-4
    agree = torch.allclose(in_training, merged, rtol=1e-3, atol=1e-4 * merged.abs().max().item())
    found = reads_of(module)
    assert found.reached(f"{path}.weight")
    assert agree == (found.reader(f"{path}.weight") is None)


SMALL, FULL = ("CLIPModel", "WhisperForConditionalGeneration"), ("ASTForAudioClassification", "BertForMaskedLM")


@pytest.mark.parametrize("architecture", [*SMALL, *FULL])
def test_made_up_inputs_reach_every_layer(architecture):
    config = getattr(transformers, architecture).config_class
    module = base(architecture) if architecture in SMALL else skeleton(config(), architecture)
    found = reads_of(module)
    layers = (name for name, part in module.named_modules() if isinstance(part, (nn.Linear, nn.Embedding, nn.Conv2d)))
    assert not [name for name in layers if not found.reached(f"{name}.weight")]


def test_what_no_input_reaches_is_said(tmp_path):
    """Tokens without an image do not reach the tower of images."""
    base("LlavaForConditionalGeneration").save_pretrained(tmp_path / "base")
    model = copy.deepcopy(base("LlavaForConditionalGeneration"))
    options = LoraConfig(target_modules=["fc1", "up_proj"], init_lora_weights=False)
    get_peft_model(model, options).save_pretrained(tmp_path / "adapter")
    said = [note for note in experts_of(tmp_path / "base", a=tmp_path / "adapter").notes if "did not reach" in note]
    assert len(said) == 1
    assert "vision_tower.encoder.layers.0.mlp.fc1" in said[0]
    assert "up_proj" not in said[0]
    assert not reads_of(nn.Linear(2, 2)).reached("weight")
