#!/usr/bin/env bash
# peft: the linear combination of two adapters with one rank_pattern saves a folder that peft refuses to load; one expects to read it back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


def config():
    return LoraConfig(r=4, lora_alpha=4, target_modules=["0", "1"], rank_pattern={"1": 2}, init_lora_weights=False)


model = get_peft_model(net(), config(), adapter_name="one")
model.add_adapter("two", config())
for kind in ("linear", "cat"):
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], kind, combination_type=kind)
model.save_pretrained("saved")
print("peft", peft.__version__)
results, x = {}, torch.ones(1, 8)
for name in ("one", "two", "linear", "cat"):
    model.set_adapter(name)
    try:
        results[name] = torch.allclose(PeftModel.from_pretrained(net(), f"saved/{name}")(x), model(x), atol=1e-5)
    except RuntimeError as error:
        results[name] = str(error).splitlines()[1].strip()
    print(f"{name}: rank_pattern {model.peft_config[name].rank_pattern}, read back: {results[name]}")
assert results["one"] is results["two"] is results["cat"] is True, results
assert "size mismatch" in str(results["linear"]), results
PYTHON
