#!/usr/bin/env bash
# fusion-bench: DARE with TIES takes frozen parameters and BatchNorm's statistics whole for changes and adds them to the base's, although no expert has changed them; one expects models that equal the base to merge to the base.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 fusion-bench==0.2.33
cd "$folder"
export HF_HOME="$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from contextlib import redirect_stdout
from copy import deepcopy
from importlib.metadata import version
from io import StringIO

import torch
from fusion_bench import BaseModelPool
from fusion_bench.method import TaskArithmeticAlgorithm, TiesMergingAlgorithm
from fusion_bench.method.dare import DareTaskArithmetic, DareTiesMerging
from torch import nn

torch.manual_seed(0)
base = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
base(torch.randn(64, 6) + 3)  # BatchNorm's statistics are other than 0 and 1
base[0].requires_grad_(False)
ties = dict(threshold=99, remove_keys=[], merge_func="mean")
drop = dict(sparsity_ratio=0.0, only_on_linear_weights=False, rescale=True)
methods = {
    "task arithmetic": TaskArithmeticAlgorithm(1.0),
    "TIES": TiesMergingAlgorithm(scaling_factor=1.0, **ties),
    "DARE, task arithmetic": DareTaskArithmetic(1.0, **drop),
    "DARE, TIES": DareTiesMerging(scaling_factor=1.0, **drop, **ties),
}


def merged(method):
    """Two experts that are the base."""
    pool = {name: deepcopy(base) for name in ("_pretrained_", "one", "two")}
    with redirect_stdout(StringIO()):
        return method.run(BaseModelPool(pool)).state_dict()


def ratio(found, name):
    before = base.state_dict()[name]
    return (found[name].norm() / before.norm()).item()


print("fusion-bench", version("fusion-bench"))
print("two experts that equal the base; nothing is dropped; norm after merging / norm before")
names = {"0.weight": "frozen layer", "2.weight": "trained layer", "1.running_var": "running_var"}
for title, method in methods.items():
    found = merged(method)
    ratios = {what: round(ratio(found, name), 3) for name, what in names.items()}
    print(f"{title}: {ratios}")
    whole = 2.0 if title == "DARE, TIES" else 1.0
    assert ratios == {"frozen layer": whole, "trained layer": 1.0, "running_var": whole}, ratios
PYTHON
