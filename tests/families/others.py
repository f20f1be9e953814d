"""Classes whose rows, outputs or files are of another kind than those of the first table, and what they can do."""

from dataclasses import dataclass, field

import torch
import transformers
from families.table import PIXELS, SEQ2SEQ, T5, TOKENS
from support.mixtures import MIXTURES, SMALL
from torch import nn

SOUND = {
    **TOKENS, "conv_dim": [8], "conv_stride": [2], "conv_kernel": [3], "num_feat_extract_layers": 1,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
}  # fmt: skip
WHISPER = {
    **SEQ2SEQ,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "classifier_proj_size": 8,
}
SPECTROGRAM = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4,
    "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 8,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
VISUAL = {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2}
DECODER = {**TOKENS, **GROUPED, "head_dim": 8}
LLAMA, CLIP_VISION = {**DECODER, "model_type": "llama"}, {**PIXELS, "model_type": "clip_vision_model"}
SMOL = {"text_config": LLAMA, "vision_config": PIXELS, "scale_factor": 2, "image_token_id": 3}
DETR = {
    "use_timm_backbone": False, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 3,
}  # fmt: skip
RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    "out_features": ["stage2"],
}  # fmt: skip
SEGFORMER = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [3, 3],
    "strides": [2, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
}  # fmt: skip
CLIP = {"text_config": TOKENS, "vision_config": PIXELS, "projection_dim": 8}

TEXTS, PAIRS, WAVES, MELS, IMAGES, BOTH = "texts", "choices", "waves", "spectrograms", "images", "images and texts"


@dataclass(frozen=True)
class Other:
    """One model class in small, and what is expected of it.

    Attributes:
        architecture: The class's name in transformers.
        options: Its configuration.
        inputs: What it reads.
        says: Words of the message that refuses its rows; empty if it learns from them.
        name: Its name in the table, if a class is there more than once.
    """

    architecture: str
    options: dict[str, object] = field(default_factory=dict)
    inputs: str = TEXTS
    says: str = ""
    name: str = ""

    @property
    def title(self) -> str:
        """Its name in the table."""
        return f"{self.architecture}{f' ({self.name})' if self.name else ''}"

    def build(self, seed: int) -> nn.Module:
        """The model with random weights, drawn independently for each seed."""
        cls = getattr(transformers, self.architecture)
        config = cls.config_class(**self.options)
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
        return model.eval()

    def row(self) -> dict[str, torch.Tensor]:
        """The inputs of one row."""
        draw = torch.Generator().manual_seed(7)
        ids = torch.randint(4, 40, (1, 7), generator=draw)
        pixels = torch.randn(1, 3, 16, 16, generator=draw)
        decoder = {"decoder_input_ids": ids[:, :3]} if self.options.get("decoder_start_token_id") is not None else {}
        return {
            TEXTS: {"input_ids": ids, **decoder},
            PAIRS: {"input_ids": ids[None].expand(1, 2, 7).contiguous()},
            WAVES: {"input_values": torch.randn(1, 64, generator=draw)},
            MELS: {"input_features": torch.randn(1, 8, 32, generator=draw), **decoder},
            IMAGES: {"pixel_values": pixels},
            BOTH: {"input_ids": ids, "pixel_values": pixels},
        }[self.inputs]


def mixtures():
    """Language models with experts in their layers."""
    return [Other(name, {**SMALL, **options}) for name, options in MIXTURES.items()]


OTHERS = [
    *mixtures(),
    Other("Wav2Vec2ForSequenceClassification", SOUND, WAVES, "main input is input_values"),
    Other("HubertForSequenceClassification", SOUND, WAVES, "main input is input_values"),
    Other("Wav2Vec2ForCTC", SOUND, WAVES, "main input is input_values"),
    Other("WavLMForCTC", SOUND, WAVES, "main input is input_values"),
    Other("WhisperForAudioClassification", WHISPER, MELS, "main input is input_features"),
    Other("WhisperForConditionalGeneration", WHISPER, MELS, "main input is input_features"),
    Other("MarianMTModel", SEQ2SEQ),
    Other("BertForQuestionAnswering", TOKENS),
    Other("RobertaForQuestionAnswering", TOKENS),
    Other("ElectraForQuestionAnswering", TOKENS),
    Other("BertForMultipleChoice", TOKENS, PAIRS, "cannot be run"),
    Other("RobertaForMultipleChoice", TOKENS, PAIRS, "cannot be run"),
    Other("BertForSequenceClassification", {**TOKENS, "num_labels": 1}, name="regression"),
    Other("LlamaForSequenceClassification", {**DECODER, "num_labels": 1}, name="reward model"),
    Other("Qwen2ForSequenceClassification", {**DECODER, "num_labels": 1}, name="reward model"),
    Other(
        "RobertaForSequenceClassification", {**TOKENS, "problem_type": "multi_label_classification", "num_labels": 3},
        name="multi-label",
    ),
    Other("BertModel", TOKENS, name="sentence encoder"),
    Other("MPNetModel", TOKENS, name="sentence encoder"),
    Other("XLMRobertaModel", TOKENS, name="sentence encoder"),
    Other("NomicBertModel", TOKENS, name="sentence encoder"),
    Other("ModernBertModel", TOKENS, name="sentence encoder"),
    Other("Qwen3Model", DECODER, name="sentence encoder"),
    Other("T5EncoderModel", {k: v for k, v in T5.items() if k != "decoder_start_token_id"}),
    Other("ViTModel", PIXELS, IMAGES, name="image encoder"),
    Other("CLIPModel", CLIP, BOTH, "cannot be run", "both towers"),
    Other("SegformerForSemanticSegmentation", SEGFORMER, IMAGES, "have the shape"),
    Other("DetrForObjectDetection", {**DETR, "backbone_config": RESNET}, IMAGES, "have the shape"),
    Other("LlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP_VISION}),
    Other(
        "PaliGemmaForConditionalGeneration",
        {"text_config": {**DECODER, "model_type": "gemma"}, "projection_dim": 16,
         "vision_config": {**PIXELS, "model_type": "siglip_vision_model"}},
    ),
    Other(
        "Qwen2VLForConditionalGeneration",
        {"text_config": {**DECODER, "rope_parameters": ROPE}, "vision_config": VISUAL},
    ),
    Other("SmolVLMForConditionalGeneration", SMOL),
]  # fmt: skip
