#!/usr/bin/env bash
# loralib: factors that are loaded into a model in eval mode do nothing, and a state_dict of eval mode counts its change twice in a model in train mode; one expects load_state_dict to give the saved model back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy loralib==0.1.2
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import loralib
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    return nn.Sequential(loralib.Linear(4, 3, r=2))


tuned, x = model(), torch.randn(5, 4)
nn.init.normal_(tuned[0].lora_B)
with torch.no_grad():
    base, right = model()(x), tuned(x)
    adapter = {name: value.clone() for name, value in loralib.lora_state_dict(tuned).items()}
    merged = {name: value.clone() for name, value in tuned.eval().state_dict().items()}
    shares = {}
    for saved, state in (("lora_state_dict()", adapter), ("state_dict() in eval mode", merged)):
        for mode in (True, False):
            new = model().train(mode)
            new.load_state_dict(state, strict=False)
            shares[saved, mode] = ((new.eval()(x) - base).norm() / (right - base).norm()).item()
print("loralib", version("loralib"))
for (saved, mode), share in shares.items():
    print(f"{saved}, loaded in {'train' if mode else 'eval'} mode: the answers change by {share:.3f} of the tuned model's change")
assert [round(share, 4) for share in shares.values()] == [1, 0, 2, 1], shares
PYTHON
