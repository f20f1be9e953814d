#!/usr/bin/env bash
# peft: add_weighted_adapter with linear sums the factors, not the changes: an adapter with itself at 0.5 and 0.5 has twice its change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import peft
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return self.layer(x)


config = LoraConfig(r=4, lora_alpha=4, target_modules=["layer"], init_lora_weights=False)
model = get_peft_model(Net(), config, adapter_name="one")
model.add_adapter("two", config)
delta = model.base_model.model.layer.get_delta_weight
print("peft", peft.__version__)
mean, errors = (delta("one") + delta("two")) / 2, {}
for kind in ("linear", "cat"):
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], kind, combination_type=kind)
    errors[kind] = ((delta(kind) - mean).norm() / mean.norm()).item()
    print(f"{kind}: distance from the mean of the two changes, relative to its size: {errors[kind]:.3f}")
model.add_weighted_adapter(["one"], [0.25], "quarter", combination_type="linear")
model.add_weighted_adapter(["one", "one"], [0.5, 0.5], "itself", combination_type="linear")
ratios = {name: (delta(name).norm() / delta("one").norm()).item() for name in ("quarter", "itself")}
print("size relative to the adapter's own: weight 0.25 gives %.3f, 0.5 + 0.5 of itself gives %.3f" % tuple(ratios.values()))
assert errors["cat"] < 1e-5 < 0.5 < errors["linear"], errors
assert abs(ratios["quarter"] - 0.25) < 1e-4, ratios
assert abs(ratios["itself"] - 2) < 1e-4, ratios
PYTHON
