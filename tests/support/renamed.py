"""Tiny models whose files have other names than their modules, and some whose files do not."""

import torch
import transformers
from support.families import TEXT, VISION, build

VISUAL = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
PARTS = {
    "LlavaForConditionalGeneration": lambda: transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT), vision_config=transformers.CLIPVisionConfig(**VISION)
    ),
    "PaliGemmaForConditionalGeneration": lambda: transformers.PaliGemmaConfig(
        text_config={"model_type": "gemma", "head_dim": 8, "num_key_value_heads": 1, **TEXT},
        vision_config={"model_type": "siglip_vision_model", **VISION}, projection_dim=16,
    ),
    "Qwen2VLForConditionalGeneration": lambda: transformers.Qwen2VLConfig(
        text_config={**TEXT, "num_key_value_heads": 2, "rope_parameters": ROPE}, vision_config=VISUAL
    ),
    "Wav2Vec2Model": lambda: transformers.Wav2Vec2Config(
        **TEXT, conv_dim=[8], conv_stride=[2], conv_kernel=[3], num_feat_extract_layers=1,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    ),
    "DetrForObjectDetection": lambda: transformers.DetrConfig(
        use_timm_backbone=False, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=3,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        ),
    ),
}  # fmt: skip
"""Configurations of models whose files have other names than their modules."""

OTHERS = [
    ("BertForPreTraining", "bert"), ("ViTForImageClassification", "vit"), ("CLIPModel", "clip"),
    ("CLIPVisionModel", "clip_vision"), ("SiglipForImageClassification", "siglip"), ("GPT2LMHeadModel", "gpt2"),
    ("BartForConditionalGeneration", "bart"), ("T5ForConditionalGeneration", "t5"), ("LlamaForCausalLM", "llama"),
    ("DistilBertForMaskedLM", "distilbert"), ("LevitForImageClassification", "levit"),
]  # fmt: skip


def model_of(architecture, seed=0):
    """A tiny model of a class in `PARTS` or `OTHERS`."""
    if architecture not in PARTS:
        return build(architecture, dict(OTHERS)[architecture], seed)
    torch.manual_seed(seed)
    return getattr(transformers, architecture)(PARTS[architecture]()).eval()
