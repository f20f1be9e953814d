#!/usr/bin/env bash
# peft: add_weighted_adapter of a rank-stabilized adapter gives its change times the square root of the rank; one expects weight 1 to keep it.
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
ratios = {}
for stabilized in (False, True):
    for rank in (4, 16):
        net = nn.Sequential(nn.Linear(32, 32, bias=False))
        config = LoraConfig(r=rank, lora_alpha=8, use_rslora=stabilized, target_modules=["0"], init_lora_weights=False)
        model = get_peft_model(net, config, adapter_name="one")
        change = model.base_model.model[0].get_delta_weight
        for kind in ("linear", "cat", "svd"):
            model.add_weighted_adapter(["one"], [1.0], kind, combination_type=kind)
            ratios[stabilized, rank, kind] = (change(kind).norm() / change("one").norm()).item()
print("peft", peft.__version__)
for (stabilized, rank, kind), ratio in ratios.items():
    print(f"use_rslora={stabilized}, r={rank}, {kind}: the change at weight 1 is {ratio:.3f} times the adapter's own")
for (stabilized, rank, kind), ratio in ratios.items():
    assert abs(ratio - (rank**0.5 if stabilized else 1)) < 1e-3, (stabilized, rank, kind, ratio)
PYTHON
