#!/usr/bin/env bash
# mergekit: a gradient of weights over the layers gives the final norm and the head its first value; one expects the last layer's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 mergekit==0.1.5
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, tie_word_embeddings=False, **size))
for value, folder in enumerate(("zeros", "ones")):
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    model.save_pretrained(folder)
config = {
    "merge_method": "linear",
    "dtype": "float32",
    "models": [
        {"model": "./zeros", "parameters": {"weight": [1, 0]}},
        {"model": "./ones", "parameters": {"weight": [0, 1]}},
    ],
}
run_merge(MergeConfiguration.model_validate(config), "out", MergeOptions(copy_tokenizer=False, quiet=True))
merged = load_file("out/model.safetensors")
print("mergekit", version("mergekit"))
names = ["model.embed_tokens", *(f"model.layers.{i}.mlp.up_proj" for i in range(3)), "model.norm", "lm_head"]
shares = {name: merged[name + ".weight"].mean().item() for name in names}
print("share of the second model, from 0 to 1 along the network:")
for name, share in shares.items():
    print(f"  {name}: {share:.2f}")
assert [round(share, 3) for share in shares.values()] == [0.0, 0.0, 0.5, 1.0, 0.0, 0.0], shares
PYTHON
