#!/usr/bin/env bash
# torch: swa_utils.AveragedModel of a bfloat16 model keeps its average in bfloat16, where steps of a decay of 0.999 round to nothing, so that it stays at the first weights for ever; one expects an average that follows the model, however roughly.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS, RUNS = 10_000, {"decay 0.99": get_ema_multi_avg_fn(0.99), "decay 0.999": get_ema_multi_avg_fn(0.999), "mean": None}


def averaged(dtype, average):
    """Sixty-four weights between 0.5 and 2, which all become half as large again after the first step."""
    model = nn.Linear(64, 1, bias=False, dtype=dtype).requires_grad_(False)
    first = torch.linspace(0.5, 2, 64).to(dtype)
    model.weight.copy_(first[None])
    average = AveragedModel(model, multi_avg_fn=average)
    for step in range(STEPS):
        average.update_parameters(model)
        if not step:
            model.weight.copy_((1.5 * first)[None])
    return ((average.module.weight[0] - first).float() / (0.5 * first.float())).mean().item()


print("torch", torch.__version__)
print(f"share of a change of 50 % that the average has followed after {STEPS} steps")
found = {}
for name, average in RUNS.items():
    found[name] = [averaged(dtype, average) for dtype in (torch.float32, torch.bfloat16)]
    print("%s: %.3f in float32, %.3f in bfloat16" % (name, *found[name]))
assert all(exact > 0.99 for exact, _ in found.values()), found
assert found["decay 0.999"][1] == 0 and found["decay 0.99"][1] < 0.8 and found["mean"][1] < 1, found
PYTHON
