#!/usr/bin/env bash
# transformers: RWKV halves weights of its deeper layers in place at the first forward pass in eval mode, and save_pretrained writes them so; one expects a model that was only asked to be saved as loaded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cd "$folder"
venv/bin/python - <<'PYTHON' 2>/dev/null
import torch
import transformers
from transformers import RwkvConfig, RwkvForCausalLM

torch.manual_seed(0)
config = RwkvConfig(vocab_size=20, hidden_size=16, attention_hidden_size=16, num_hidden_layers=4, rescale_every=2)
RwkvForCausalLM(config).save_pretrained("loaded")
model, ids = RwkvForCausalLM.from_pretrained("loaded").eval(), torch.arange(8)[None]
before = {name: value.clone() for name, value in model.state_dict().items()}
with torch.no_grad():
    answer = model(ids).logits
    model.save_pretrained("saved")
    again = RwkvForCausalLM.from_pretrained("saved").eval()
    changed = {name: (before[name] / value).mean().item() for name, value in again.state_dict().items() if not torch.equal(before[name], value)}
    other = again(ids).logits
print("transformers", transformers.__version__)
for name, ratio in changed.items():
    print(f"{name}: loaded / saved after one forward pass = {ratio:.2f}")
print("largest difference of the logits of the saved model:", (other - answer).abs().max().item())
assert len(changed) == 4 and all(abs(ratio - 2) < 1e-3 for ratio in changed.values()), changed
assert (other - answer).abs().max() > 1e-4
PYTHON
