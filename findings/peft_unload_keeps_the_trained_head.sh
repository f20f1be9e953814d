#!/usr/bin/env bash
# peft: unload() takes the factors away and leaves modules_to_save (a trained head) in the model; one expects the base, which its documentation promises and disable_adapter gives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import inspect

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x)))


torch.manual_seed(0)
x = torch.randn(4, 8)
base = Net()(x)
model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["layer"], modules_to_save=["head"]))
for parameter in model.parameters():
    if parameter.requires_grad:
        nn.init.normal_(parameter)
tuned = model(x)
with model.disable_adapter():
    disabled = model(x)
print("peft", peft.__version__)
print("unload's documentation:", " ".join(inspect.getdoc(BaseTuner.unload).split())[:100])
plain = model.unload()
assert type(plain.head) is nn.Linear and not any("lora" in name for name, _ in plain.named_modules())
found = {"adapter": tuned, "disable_adapter": disabled, "unload": plain(x)}
distances = {name: (answer - base).abs().max().item() for name, answer in found.items()}
for name, value in distances.items():
    print(f"{name}: answers differ from the base's by {value:.4f}")
assert distances["disable_adapter"] == 0 and distances["unload"] > 0.1, distances
assert torch.equal(plain.layer.weight, Net().layer.weight) and not torch.equal(plain.head.weight, Net().head.weight)
PYTHON
