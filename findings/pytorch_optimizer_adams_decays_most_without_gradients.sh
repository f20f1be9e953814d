#!/usr/bin/env bash
# pytorch-optimizer: AdamS at its own settings decays weights the more the smaller the gradients are: one step takes a weight of 1 to 0.09 at gradients of 1e-7, and to -9 at gradients of 0, ten steps to 3.5e9; one expects weights that no gradient moves to stay, or to decay slowly, as under AdamW.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 pytorch_optimizer==4.1.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import torch
from pytorch_optimizer import AdamS
from torch import nn
from torch.optim import AdamW

KINDS = {"AdamW": (AdamW, {}), "AdamS": (AdamS, {}), "AdamS without decay": (AdamS, {"weight_decay": 0.0})}


def after(steps, gradient, kind):
    """Give what becomes of weights of 1 after steps with one gradient, at the optimizer's own settings."""
    optimizer, options = KINDS[kind]
    weights = nn.Parameter(torch.ones(8))
    stepper = optimizer([weights], **options)
    for _ in range(steps):
        weights.grad = torch.full_like(weights, gradient)
        stepper.step()
    return weights[0].item()


print("pytorch-optimizer", version("pytorch_optimizer"), "torch", torch.__version__)
print("settings of AdamS:", {name: AdamS([nn.Parameter(torch.ones(1))]).defaults[name] for name in ("lr", "weight_decay")})
found = {}
for gradient in (1e-2, 1e-4, 1e-6, 1e-7, 0.0):
    for kind in KINDS:
        found[gradient, kind] = after(1, gradient, kind), after(10, gradient, kind)
        print("gradients of %g, %s: a weight of 1 is %.4g after one step, %.4g after ten" % (gradient, kind, *found[gradient, kind]))
for (gradient, kind), weights in found.items():
    if kind != "AdamS":
        assert all(0.98 < weight <= 1 for weight in weights), (gradient, kind, weights)
assert found[1e-2, "AdamS"][0] > 0.998 and found[1e-4, "AdamS"][0] > 0.99, found
assert 0.08 < found[1e-7, "AdamS"][0] < 0.1 and abs(found[1e-7, "AdamS"][1]) < 0.01, found
assert -9.1 < found[0.0, "AdamS"][0] < -8.9 and found[0.0, "AdamS"][1] > 1e9, found
PYTHON
