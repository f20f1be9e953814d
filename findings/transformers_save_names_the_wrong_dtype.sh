#!/usr/bin/env bash
# transformers: save_pretrained(state_dict=…) writes the dtype of the model, not of the tensors it saves, so that from_pretrained rounds them; one expects them back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import json

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **size)).to(torch.float16)
name = "model.layers.0.mlp.up_proj.weight"
tensors = {key: value.float() + 1e-5 for key, value in model.state_dict().items()}  # as an average in float32
model.save_pretrained("saved", state_dict=dict(tensors))
saved = load_file("saved/model.safetensors")[name]
read = AutoModelForCausalLM.from_pretrained("saved").get_parameter(name)
print("transformers", transformers.__version__)
print("model.safetensors:", saved.dtype, "config.json:", json.load(open("saved/config.json"))["dtype"])
print("from_pretrained:  ", read.dtype, "off by up to", (read.float() - saved).abs().max().item())
assert torch.equal(saved, tensors[name]) and saved.dtype == torch.float32
assert read.dtype == torch.float16
assert not torch.equal(read.float(), saved)
PYTHON
