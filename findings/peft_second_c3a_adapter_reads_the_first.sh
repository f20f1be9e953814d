#!/usr/bin/env bash
# peft: the second of two active C3A adapters is applied to what the first one returned, not to the layer's input, and merging both gives other answers; one expects two changes to add up.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import peft
import torch
from peft import C3AConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
linear = nn.Linear(8, 8, bias=False)
nn.init.zeros_(linear.weight)
config = C3AConfig(block_size=4, target_modules=["0"], init_weights=False)
model = get_peft_model(nn.Sequential(linear), config, adapter_name="one")
model.add_adapter("two", config)
for name, parameter in model.named_parameters():
    if "c3a" in name:
        nn.init.normal_(parameter)
x = torch.randn(4, 8)


def answer(*active):
    model.base_model.set_adapter(list(active))
    with torch.no_grad():
        return model(x).clone()


with torch.no_grad():
    one, two, both = answer("one"), answer("two"), answer("one", "two")
    change = model.base_model.model[0].get_delta_weight("two")
    chained = one + one @ change.T
    model.merge_adapter(["one", "two"])
    merged = model(x).clone()
print("peft", peft.__version__)
found = {
    "both active, from the sum of the two": both - (one + two),
    "both active, from the second applied to the first": both - chained,
    "both merged, from the sum of the two": merged - (one + two),
}
for name, difference in found.items():
    print(f"{name}: answers differ by {difference.abs().max():.6f}")
far, near, also_near = (difference.abs().max().item() for difference in found.values())
assert near < 1e-4 and also_near < 1e-4 < 0.01 < far, found
PYTHON
