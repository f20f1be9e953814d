#!/usr/bin/env bash
# ema-pytorch: KarrasEMA and PostHocEMA that update every 10th or 100th step (100 is the default) decay as if they had seen every step, so that the average stays near the first weights; one expects `update_every` to save time and to change little.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 ema-pytorch==0.8.3
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from ema_pytorch import KarrasEMA, PostHocEMA
from torch import nn

STEPS, GAMMA = 10_000, 6.94  # the width of the average is 10 % of the run


def trained(average, model):
    """One weight that is 1 / 10000 after the first step, 1 after the last."""
    for step in range(1, STEPS + 1):
        model.weight.data.fill_(step / STEPS)
        average.update()
    return average


def one_weight():
    return nn.Linear(1, 1, bias=False).requires_grad_(False)


print("ema-pytorch", version("ema-pytorch"))
right = (GAMMA + 1) / (GAMMA + 2)  # the mean of t under the density (gamma + 1) * t ** gamma on 0 to 1
print(f"the weight goes from 0 to 1 in {STEPS} steps; its average at gamma {GAMMA} is {right:.3f}")
found = {}
for every in (1, 10, 100):
    model = one_weight()
    found[every] = trained(KarrasEMA(model, gamma=GAMMA, update_every=every), model).ema_model.weight.item()
    print(f"KarrasEMA, update_every={every}: {found[every]:.3f}")
model = one_weight()
default = trained(KarrasEMA(model, gamma=GAMMA), model).ema_model.weight.item()
print(f"KarrasEMA, update_every as it is by default: {default:.3f}")
assert abs(found[1] - right) < 0.001, found
assert found[10] < 0.5 and found[100] < 0.1 and default == found[100], (found, default)

# The averages that are made afterwards, from two that were kept, do not come out right either.
afterwards = {}
for every in (1, 10):
    model = one_weight()
    settings = dict(checkpoint_every_num_steps=2000, checkpoint_folder=f"kept{every}", checkpoint_dtype=torch.float32)
    kept = trained(PostHocEMA(model, gammas=(GAMMA, 16.97), update_every=every, **settings), model)
    afterwards[every] = kept.synthesize_ema_model(gamma=10.0).ema_model.weight.item()
    print(f"PostHocEMA, update_every={every}, gamma 10: {afterwards[every]:.3f} where {11 / 12:.3f} is right")
assert abs(afterwards[1] - 11 / 12) < 0.01 and abs(afterwards[10] - 11 / 12) > 0.2, afterwards
PYTHON
