#!/usr/bin/env bash
# peft: two active OFT adapters that are merged give other answers than before, those of the other order; one expects merging to change no answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 peft==0.21.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import copy

import peft
import torch
from peft import OFTConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
x = torch.randn(4, 8)
config = OFTConfig(oft_block_size=4, target_modules=["0"], init_weights=False)
model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), config, adapter_name="one")
model.add_adapter("two", config)
for name, parameter in model.named_parameters():
    if "oft" in name:
        nn.init.normal_(parameter, std=0.3)


def distance(active, merged):
    """Largest change of an answer when the active adapters are merged in this order."""
    model.base_model.set_adapter(active)
    tried = copy.deepcopy(model).eval()
    with torch.no_grad():
        before = tried(x)
        tried.merge_adapter(merged)
        return (tried(x) - before).abs().max().item()


print("peft", peft.__version__)
cases = ((["one"], ["one"]), (["two"], ["two"]), (["one", "two"], ["one", "two"]), (["one", "two"], ["two", "one"]))
found = [distance(*case) for case in cases]
for (active, merged), value in zip(cases, found):
    print(f"active {active}, merged {merged}: answers change by {value:.6f}")
assert max(found[0], found[1], found[3]) < 1e-4, found
assert found[2] > 0.01, found
PYTHON
