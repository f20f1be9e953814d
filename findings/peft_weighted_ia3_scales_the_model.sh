#!/usr/bin/env bash
# peft: add_weighted_adapter of IA3 adds up the factors, which are 1 where nothing is changed: two adapters without any change at 1 and 1 double the layer, at 0.3 and 0.3 it shrinks; one expects weights of the changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import peft
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x)


torch.manual_seed(0)
x = torch.randn(4, 8)
base = Net()(x)
configs = {"LoRA": LoraConfig(r=2, target_modules=["layer"]), "IA3": IA3Config(target_modules=["layer"], feedforward_modules=[])}
found = {}
for kind, config in configs.items():
    # Untrained: neither adapter changes an answer.
    model = get_peft_model(Net(), config, adapter_name="one")
    model.add_adapter("two", config)
    assert torch.allclose(model(x), base)
    for weights in ([1.0, 1.0], [0.5, 0.5], [0.3, 0.3], [1.0, -1.0]):
        name = f"sum {weights}".replace(".", "_")
        model.add_weighted_adapter(["one", "two"], weights, name)
        model.set_adapter(name)
        found[kind, *weights] = (model(x).norm() / base.norm()).item()
print("peft", peft.__version__)
for (kind, *weights), value in found.items():
    print(f"two untrained {kind} adapters, weights {weights}: the layer's output has {value:.2f} times its norm")
for (kind, *weights), value in found.items():
    right = 1 if kind == "LoRA" else sum(weights)
    assert abs(value - right) < 1e-3, found
PYTHON
