#!/usr/bin/env bash
# torch: MultiplicativeLR after a warm-up in SequentialLR goes on from the warm-up's last rate, and never reaches the optimizer's own; one expects what ExponentialLR, the same rule, does there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import warnings

import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LinearLR, MultiplicativeLR, SequentialLR

warnings.simplefilter("ignore")


def rates(scheduler):
    """Learning rates of eight steps: three of warm-up from a tenth, then halved at every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    both = SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, 3), scheduler(optimizer)], milestones=[3])
    found = []
    for _ in range(8):
        found.append(round(optimizer.param_groups[0]["lr"], 4))
        optimizer.step()
        both.step()
    return found


print("torch", torch.__version__)
rules = {
    "ExponentialLR(0.5)": lambda optimizer: ExponentialLR(optimizer, 0.5),
    "LambdaLR(0.5 ** step)": lambda optimizer: LambdaLR(optimizer, lambda step: 0.5**step),
    "MultiplicativeLR(0.5)": lambda optimizer: MultiplicativeLR(optimizer, lambda step: 0.5),
}
found = {name: rates(rule) for name, rule in rules.items()}
for name, values in found.items():
    print(f"{name}: {values}")
*right, multiplied = found.values()
assert right == 2 * [[0.1, 0.4, 0.7, 1.0, 0.5, 0.25, 0.125, 0.0625]], found
assert multiplied[:4] == [0.1, 0.4, 0.7, 0.35] and max(multiplied) == 0.7, found
PYTHON
