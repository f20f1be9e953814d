#!/usr/bin/env bash
# pytorch-optimizer: under AdaShift one gradient of zero before others, as of an embedding whose token is in no row of the first batch, throws a weight of 1 to 5e7, four to 1e29 and NaN, for a step divides by the roots of older gradients and 1e-10; Adam keeps it between 0.5 and 1 as the loss demands, and one expects no weight to leave its scale because it was not needed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 pytorch_optimizer==4.1.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import torch
from pytorch_optimizer import AdaShift
from torch import nn
from torch.optim import Adam


def furthest(kind, zeros):
    """Give the largest and the last of what a weight of 1 becomes in steps of zero gradients, then in forty towards 0.5."""
    weight = nn.Parameter(torch.ones(1))
    optimizer, seen = kind([weight], lr=1e-2), []
    for step in range(zeros + 40):
        weight.grad = torch.zeros_like(weight) if step < zeros else (weight - 0.5).detach()
        optimizer.step()
        seen.append(weight.item())
    return max(map(abs, seen)), seen[-1]


print("pytorch-optimizer", version("pytorch_optimizer"), "torch", torch.__version__)
print("settings of AdaShift:", {**AdaShift([nn.Parameter(torch.ones(1))]).defaults, "lr": 1e-2})
found = {(kind, zeros): furthest(kind, zeros) for kind in (Adam, AdaShift) for zeros in (0, 1, 4, 20)}
for (kind, zeros), values in found.items():
    print("%s, %d gradients of zero first: the weight is at most %.3g, and at last %.3g" % (kind.__name__, zeros, *values))
for (kind, zeros), (most, last) in found.items():
    if kind is Adam or not zeros:
        assert most <= 1 and 0.5 < last < 0.8, found
    else:
        assert most > (1e7 if zeros == 1 else 1e20), found
        assert zeros == 1 or last != last, found
PYTHON
