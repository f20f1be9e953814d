#!/usr/bin/env bash
# mergekit: mergekit-extract-lora writes the change of biases, but its adapter_config.json does not say lora_bias, so that peft leaves them out; one expects full rank to give the model back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 mergekit==0.1.5 peft==0.21.2
cd "$folder"
cat > make.py <<'PYTHON'
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
torch.manual_seed(0)
model = Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=1, tie_word_embeddings=False, **size))
model.save_pretrained("base")
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "proj" in name:
            parameter.add_(torch.randn_like(parameter))
model.save_pretrained("tuned")
PYTHON
cat > read.py <<'PYTHON'
import json
from importlib.metadata import version

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

print("mergekit", version("mergekit"), "peft", version("peft"))
print("in the file:", sorted(name for name in load_file("adapter/adapter_model.safetensors") if "bias" in name))
print("lora_bias in adapter_config.json:", json.load(open("adapter/adapter_config.json")).get("lora_bias"))
tuned = dict(AutoModelForCausalLM.from_pretrained("tuned").named_parameters())
base = AutoModelForCausalLM.from_pretrained("base")
before = {name: value.detach().clone() for name, value in base.named_parameters()}
applied = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
missing = {"weight": 0.0, "bias": 0.0}
for name, value in applied.named_parameters():
    if "proj" in name:
        left = (tuned[name] - value).norm() / (tuned[name] - before[name]).norm()
        kind = name.rpartition(".")[2]
        missing[kind] = max(missing[kind], left.item())
print("largest share of a change that the adapter does not have:", {kind: round(value, 5) for kind, value in missing.items()})
assert missing["weight"] < 1e-3, missing
assert missing["bias"] == 1, missing
PYTHON
venv/bin/python make.py 2>/dev/null
venv/bin/mergekit-extract-lora --model ./tuned --base-model ./base --out-path adapter --max-rank 8 >log 2>&1 || { cat log; exit 1; }
venv/bin/python read.py
