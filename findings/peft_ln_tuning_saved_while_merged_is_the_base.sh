#!/usr/bin/env bash
# peft: an LN tuning adapter that is saved between merge_adapter and unmerge_adapter holds the base's norms, so that its training is lost; one expects the adapter, as LoRA is saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import peft
import torch
from peft import LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))


x = torch.linspace(-1, 1, 32).reshape(4, 8)
base = net()(x).detach()
configs = {"LoRA": LoraConfig(r=2, target_modules=["0"]), "LN tuning": LNTuningConfig(target_modules=["1"])}
shares = {}
for kind, config in configs.items():
    model = get_peft_model(net(), config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    tuned = model(x).detach()
    for state in ("unmerged", "merged"):
        if state == "merged":
            model.merge_adapter()
        assert torch.allclose(model(x), tuned, atol=1e-4), (kind, state)
        model.save_pretrained(f"{kind}_{state}")
        again = PeftModel.from_pretrained(net(), f"{kind}_{state}").eval()
        shares[kind, state] = ((again(x) - base).norm() / (tuned - base).norm()).item()
print("peft", peft.__version__)
for (kind, state), share in shares.items():
    print(f"{kind}, saved {state}: loaded again, it has {share:.3f} of the adapter's change")
assert [round(share, 3) for share in shares.values()] == [1, 1, 1, 0], shares
PYTHON
