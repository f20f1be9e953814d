"""Tiny mixtures of experts, as `save_pretrained` writes them: with files of one tensor per expert, or of stacks."""

import torch
import transformers

SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}
FEW = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 8}

MIXTURES = {
    "MixtralForCausalLM": LOCAL,
    "Qwen2MoeForCausalLM": {**FEW, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "Qwen3MoeForCausalLM": {**FEW, "moe_intermediate_size": 8, "head_dim": 8},
    "OlmoeForCausalLM": FEW,
    "DeepseekV3ForCausalLM": {**LATENT, **ROUTED, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "JambaForCausalLM": {
        **FEW, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False, "num_hidden_layers": 2,
    },
    "PhimoeForCausalLM": LOCAL,
    "GraniteMoeForCausalLM": LOCAL,
    "GptOssForCausalLM": {**LOCAL, "head_dim": 8},
    "Llama4ForCausalLM": {**LOCAL, "intermediate_size_mlp": 24, "head_dim": 8, "num_experts_per_tok": 1},
    "Ernie4_5_MoeForCausalLM": {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 8, "moe_layer_start_index": 1,
    },
}  # fmt: skip
"""Settings besides `SMALL` by class."""


def mixture(architecture: str, seed: int) -> transformers.PreTrainedModel:
    """A model with random weights whose routers decide clearly."""
    torch.manual_seed(seed)
    cls = getattr(transformers, architecture)
    model = cls(cls.config_class(**{**SMALL, **MIXTURES[architecture]}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def near(base: transformers.PreTrainedModel, seed: int) -> transformers.PreTrainedModel:
    """The base with a little noise on every parameter."""
    torch.manual_seed(seed)
    other = type(base)(base.config).eval()
    other.load_state_dict(base.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return other
