#!/usr/bin/env bash
# transformers: from_pretrained(gguf_file=…) reads neither the rope.scaling keys of a GGUF file nor its rope_freqs tensor, and says nothing: a Llama or Qwen2 with linear, YaRN or Llama 3 scaling is read without it, and its logits are off by a third; one expects the model of the file, or an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0 gguf==0.19.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SIZES = dict(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=4, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True)
KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
ROPE = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    ),
}
LAYER = "model.layers.0."
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
NAMES |= {f"attn_{to}": f"self_attn.{of}_proj" for to, of in dict(q="q", k="k", v="v", output="o").items()}
NAMES |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
TYPES = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}


def halves_alternate(weight):
    """Give the rows of queries and keys in the order that GGUF files of Llama have."""
    rows = weight.reshape(4, 2, 8, *weight.shape[1:]).swapaxes(1, 2)
    return rows.reshape(weight.shape)


def write(path, arch, model, scaling):
    """Write the model as llama.cpp's files of this architecture are: settings, and tensors under its names."""
    writer = gguf.GGUFWriter(path, arch)
    for add, value in {
        "vocab_size": 32, "context_length": 256, "embedding_length": 64, "block_count": 1, "feed_forward_length": 64,
        "head_count": 4, "head_count_kv": 4, "layer_norm_rms_eps": 1e-5, "rope_freq_base": 10000.0, "rope_dimension_count": 16,
    }.items():  # fmt: skip
        getattr(writer, f"add_{add}")(value)
    if kind := TYPES.get(scaling["rope_type"]):
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(64)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    if scaling["rope_type"] == "llama3":
        usual = 10000.0 ** (-torch.arange(8) / 8)
        writer.add_tensor("rope_freqs.weight", (usual / model.model.rotary_emb.inv_freq).numpy())
    for to, of in NAMES.items():
        for part in ("weight", "bias"):
            if (tensor := state.get(f"{LAYER}{of}.{part}")) is not None:
                turned = arch == "llama" and to in ("attn_q", "attn_k")
                writer.add_tensor(f"blk.0.{to}.{part}", halves_alternate(tensor) if turned else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


print("transformers", version("transformers"), "gguf", version("gguf"))
ids = torch.arange(200)[None] % 32
found = {}
for arch, name in [("llama", "none"), ("llama", "linear"), ("llama", "llama3"), ("qwen2", "none"), ("qwen2", "yarn")]:
    config, cls = KINDS[arch]
    torch.manual_seed(0)
    model = cls(config(**SIZES, rope_parameters=ROPE[name] | {"rope_theta": 10000.0})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)  # so that attention attends to something
    write(f"{arch}_{name}.gguf", arch, model, ROPE[name])
    file = gguf.GGUFReader(f"{arch}_{name}.gguf")
    names = [*file.fields, *(tensor.name for tensor in file.tensors)]
    said = [part for part in names if "rope.scaling" in part or "rope_freqs" in part]
    loaded = AutoModelForCausalLM.from_pretrained(".", gguf_file=f"{arch}_{name}.gguf").eval()
    with torch.no_grad():
        right, other = model(ids).logits, loaded(ids).logits
    found[arch, name] = ((other - right).norm() / right.norm()).item()
    rope = loaded.config.rope_parameters["rope_type"]
    print(f"{arch}, scaling {name}, said by {said}: read as {rope}; logits are off by {found[arch, name]:.1%}")
    assert rope == "default", loaded.config
assert max(value for (_, name), value in found.items() if name == "none") < 1e-4, found
assert min(value for (_, name), value in found.items() if name != "none") > 0.2, found
PYTHON
