"""One table over model families: tiny models with random weights, and how each class treats the rows of a batch."""

from dataclasses import dataclass, field

import torch
import transformers
from packaging.version import Version
from torch import nn

TOKENS = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
SEQ2SEQ = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 40,
    "max_position_embeddings": 64, "decoder_start_token_id": 1, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
T5 = {
    "d_model": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 40,
    "decoder_start_token_id": 2, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
XLNET = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "vocab_size": 40, "pad_token_id": 2}
PIXELS = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 16}
SWIN = {
    "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2,
}  # fmt: skip
BIG_BIRD = {"block_size": 2, "num_random_blocks": 1}
REFORMER = {
    "attention_head_size": 8, "axial_pos_embds": False, "feed_forward_size": 32, "local_attn_chunk_length": 4,
    "lsh_attn_chunk_length": 4, "num_buckets": 2, "num_hashes": 1,
}  # fmt: skip
FUNNEL = {"block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "vocab_size": 40}
CONV_BERT = {"embedding_size": 16, "head_ratio": 2, "conv_kernel_size": 3}
RECURRENT_GEMMA = {"block_types": ["recurrent", "attention"], "lru_width": 16, "attention_window_size": 8, **GROUPED}
JAMBA = {
    "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "use_mamba_kernels": False,
    "num_key_value_heads": 2,
}  # fmt: skip
MAMBA2 = {"num_heads": 4, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8}
CLIP = {"text_config": TOKENS, "vision_config": PIXELS, "projection_dim": 8}
PERCEIVER = {
    "d_model": 16, "d_latents": 16, "num_latents": 4, "num_blocks": 1, "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 64,
}  # fmt: skip
MOBILE_BERT = {"embedding_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16}
CANINE = {"num_hash_buckets": 64, "local_attention_chunk": 8}
RWKV = {"num_hidden_layers": 3, "rescale_every": 1}  # the second and third block are rescaled, as from the seventh
LAYOUT = {"coordinate_size": 2, "shape_size": 4, "visual_embed": False}

CHANGES, RANDOM = "changes itself", "random"
LED_DRAWS = RANDOM if Version(transformers.__version__) < Version("5.23") else ""
"""Older releases draw a number for each layer in evaluation mode too."""


@dataclass(frozen=True)
class Family:
    """One model class in small, and what is expected of it.

    Attributes:
        architecture: The class's name in transformers.
        options: Its configuration.
        batches: Which rows may share a forward pass, and how they are padded: "right" (rows of any lengths, padded on
            the right), "left", "64" (padded to that length), "equal" (lengths), "none".
        prompts: The same for generation; empty if the class does not generate.
        state: "changes itself", "random" or empty.
    """

    architecture: str
    options: dict[str, object] = field(default_factory=dict)
    batches: str = "right"
    prompts: str = ""
    state: str = ""

    def build(self, seed: int) -> nn.Module:
        """The model with random weights, drawn independently for each seed."""
        cls = getattr(transformers, self.architecture)
        config = cls.config_class(**self.options)
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
        return model.eval()

    @property
    def images(self) -> bool:
        """Whether its rows are images."""
        return self.architecture.endswith("ImageClassification")


def texts(*names, head="ForSequenceClassification", batches="right", state="", **options):
    """Encoders and decoders with a head for classes or masked tokens."""
    return [Family(name + head, {**TOKENS, **options}, batches, "", state) for name in names]


def decoders(*names, head="ForCausalLM", prompts="left", state="", **options):
    """Decoder-only language models."""
    return [Family(name + head, {**TOKENS, **options}, "right", prompts, state) for name in names]


def seq2seq(*names, batches="right", prompts="right", state="", options=SEQ2SEQ, **more):
    """Encoder-decoders that generate."""
    return [Family(name, {**options, **more}, batches, prompts, state) for name in names]


def images(*names, options=PIXELS):
    """Image classifiers."""
    return [Family(name + "ForImageClassification", options) for name in names]


TABLE = [
    *texts("Bert", "Roberta", "Albert", "Electra", "MPNet", "RoFormer", "Deberta", "DebertaV2", "Ernie"),
    *texts("MegatronBert", "XLM", "LayoutLM", "IBert", "Mra", "ModernBert", "NomicBert", "EuroBert"),
    *texts("RemBert", input_embedding_size=16),
    *texts("SqueezeBert", embedding_size=16, q_groups=1, k_groups=1, v_groups=1),
    *texts("DistilBert", hidden_dim=32),
    *texts("Luke", entity_vocab_size=4, entity_emb_size=16),
    *texts("Longformer", attention_window=4),
    *texts("LayoutLMv3", **LAYOUT),
    Family("PerceiverForSequenceClassification", PERCEIVER),
    Family("FunnelForSequenceClassification", FUNNEL, state=CHANGES),
    Family("XLNetForSequenceClassification", XLNET, batches="left"),
    *texts("FNet", batches="64"),
    *texts("Nystromformer", "Yoso", batches="equal"),
    *texts("ConvBert", batches="equal", **CONV_BERT),
    *texts("Canine", batches="equal", **CANINE),
    *texts("MobileBert", batches="equal", **MOBILE_BERT),
    *texts("BigBird", batches="equal", state=CHANGES, **BIG_BIRD),
    *texts("Reformer", batches="equal", state=RANDOM, **REFORMER),
    *texts("Bert", "DebertaV2", head="ForTokenClassification"),
    *texts("FNet", head="ForTokenClassification", batches="64"),
    *texts("Canine", head="ForTokenClassification", batches="equal", **CANINE),
    *texts("Bert", "Electra", "ModernBert", head="ForMaskedLM"),
    *texts("GPT2", "GPTNeoX", "OpenAIGPT", "Llama", "Phi3", "Falcon", "Bloom", "Persimmon"),
    *texts("OPT", word_embed_proj_dim=16, ffn_dim=32),
    *texts("Mistral", "Mixtral", "Qwen2", "Qwen3", "Gemma", **GROUPED),
    *texts("Jamba", **JAMBA),
    Family("BartForSequenceClassification", SEQ2SEQ),
    Family("T5ForSequenceClassification", T5),
    *decoders("GPT2", head="LMHeadModel"),
    *decoders("Bloom", "Falcon", "Mpt", "BioGpt", "Olmo", "Granite", "Llama", "Mamba", "FalconMamba"),
    *decoders("OPT", word_embed_proj_dim=16, ffn_dim=32),
    *decoders("XGLM", ffn_dim=32),
    *decoders("GPTJ", rotary_dim=4),
    *decoders("GPTNeo", attention_types=[[["global", "local"], 1]], num_layers=2, window_size=4),
    *decoders("Mamba2", **MAMBA2),
    *decoders("Gemma3", **GROUPED),
    *decoders("RecurrentGemma", prompts="equal", state=CHANGES, **RECURRENT_GEMMA),
    *decoders("Rwkv", prompts="none", state=CHANGES, **RWKV),
    Family("XLNetLMHeadModel", XLNET, prompts="equal"),
    *seq2seq("BartForConditionalGeneration", "MarianMTModel", "PegasusForConditionalGeneration"),
    *seq2seq("BigBirdPegasusForConditionalGeneration", batches="equal", prompts="equal", state=CHANGES, **BIG_BIRD),
    *seq2seq("LEDForConditionalGeneration", state=LED_DRAWS, attention_window=4),
    *seq2seq("T5ForConditionalGeneration", options=T5),
    *seq2seq("LongT5ForConditionalGeneration", options=T5, local_radius=3),
    *seq2seq("SwitchTransformersForConditionalGeneration", options=T5, num_experts=2),
    *images("ViT", "DeiT", "Beit", "Dinov2", "ViTMSN", "Data2VecVision"),
    *images("ConvNext", "ConvNextV2", options=STAGES),
    *images("Swin", "Swinv2", options=SWIN),
    *images("CLIP", "Siglip", options=CLIP),
    Family("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
]
