#!/usr/bin/env bash
# peft: add_weighted_adapter leaves out the trained magnitude of DoRA and the bias of lora_bias; one expects weight 1 to keep the function.
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
x, base = torch.randn(3, 8), nn.Linear(8, 8, bias=False)
shifts = {}
for option in ("none", "use_dora", "lora_bias"):
    net = nn.Sequential(nn.Linear(8, 8, bias=False))
    net[0].weight.data.copy_(base.weight.data)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["0"], init_lora_weights=False, **({} if option == "none" else {option: True}))
    model = get_peft_model(net, config, adapter_name="one")
    layer = model.base_model.model[0]
    with torch.no_grad():  # as after training
        if option == "use_dora":
            layer.lora_magnitude_vector["one"].weight.mul_(2)
        if option == "lora_bias":
            layer.lora_B["one"].bias.fill_(1)
        before = model(x)
        for kind in ("linear", "cat"):
            model.add_weighted_adapter(["one"], [1.0], kind, combination_type=kind)
            model.set_adapter(kind)
            shifts[option, kind] = ((model(x) - before).norm() / before.norm()).item()
print("peft", peft.__version__)
for (option, kind), shift in shifts.items():
    print(f"{option}, {kind} of one adapter at weight 1: the output moves by {shift:.3f} of its size")
for (option, kind), shift in shifts.items():
    assert shift < 1e-5 if option == "none" else shift > 0.2, (option, kind, shift)
PYTHON
