#!/usr/bin/env bash
# torch: a checkpoint that went through torch_save_to_dcp and dcp_to_torch_save has text keys in the optimizer's state, which load_state_dict takes without a word and does not use; one expects the round trip to keep Adam's moments.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save, torch_save_to_dcp


def training():
    parameter = torch.nn.Parameter(torch.zeros(1))
    return parameter, torch.optim.Adam([parameter], lr=0.1)


def step(parameter, optimizer, gradient):
    parameter.grad = torch.tensor([gradient])
    optimizer.step()


before, optimizer = training()
for _ in range(10):
    step(before, optimizer, 1.0)
torch.save({"model": before.data, "optimizer": optimizer.state_dict()}, "before.pt")
torch_save_to_dcp("before.pt", "folder")
dcp_to_torch_save("folder", "after.pt")
print("torch", torch.__version__)
moved = {}
for name in ("before.pt", "after.pt"):
    saved = torch.load(name)
    parameter, optimizer = training()
    parameter.data.copy_(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    step(parameter, optimizer, -0.1)  # against ten gradients of 1
    moved[name] = (parameter - saved["model"]).item()
    print(f"{name}: keys of the state {list(saved['optimizer']['state'])}; the next step moves by {moved[name]:+.4f}")
# Adam's moments at step 11, and those of a first step, which goes against the sign of its gradient.
first, second = 0.9 * (1 - 0.9**10) - 0.01, 0.999 * (1 - 0.999**10) + 0.001 * 0.01
right = -0.1 * (first / (1 - 0.9**11)) / (second / (1 - 0.999**11)) ** 0.5
assert abs(moved["before.pt"] - right) < 1e-4, (moved, right)
assert abs(moved["after.pt"] - 0.1) < 1e-4, moved
PYTHON
