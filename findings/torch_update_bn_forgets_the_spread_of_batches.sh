#!/usr/bin/env bash
# torch: after swa_utils.update_bn, BatchNorm's variance is the mean of the variances inside batches, each batch counting alike; one expects the statistics of the rows, as two batches have different means.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from torch import nn
from torch.optim.swa_utils import update_bn


def statistics(rows, size):
    norm = nn.BatchNorm1d(1)
    update_bn(rows.split(size), nn.Sequential(norm))
    return norm.running_mean.item(), norm.running_var.item()


print("torch", torch.__version__)
rows = torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0, 5.0])[:, None]
print(f"rows {rows.flatten().tolist()}: mean {rows.mean():.3f}, variance {rows.var():.3f}")
for size in (6, 4, 2):
    print(f"update_bn in batches of {size}: mean %.3f, variance %.3f" % statistics(rows, size))
assert torch.allclose(torch.tensor(statistics(rows, 6)), torch.stack([rows.mean(), rows.var()]))
assert statistics(rows, 4) == (2.5, 0.0), statistics(rows, 4)

# Shuffled rows in equal batches come out nearly right; a short last batch counts as much as each whole one.
torch.manual_seed(0)
shuffled = torch.randn(1001, 1) + 3
rest = torch.cat([shuffled[:1000], torch.tensor([[100.0], [100.0]])])
mean, variance = statistics(rest, 100)
print(f"1000 rows around 3 and a last batch of two rows of 100: mean {mean:.2f} (true {rest.mean():.2f}), ", end="")
print(f"variance {variance:.2f} (true {rest.var():.2f})")
assert mean > 10 > 4 > rest.mean() and variance < 1 < 15 < rest.var(), (mean, variance)
PYTHON
