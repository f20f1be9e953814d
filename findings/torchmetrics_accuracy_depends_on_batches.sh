#!/usr/bin/env bash
# torchmetrics: accuracy of the same logits depends on how they are cut into batches; one expects that only an option decides what is a logit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy, MultilabelAccuracy

logits = torch.tensor([0.3, 0.4, 0.1, 0.2, 2.0, -3.0])
target = torch.tensor([1, 1, 1, 1, 1, 0])
print("torchmetrics", torchmetrics.__version__)
print("positive logit, positive class, for all:", ((logits > 0) == target.bool()).all().item())
results = {}
for metric, shape in ((BinaryAccuracy(), (-1,)), (MultilabelAccuracy(num_labels=2, average="micro"), (-1, 2))):
    for size in (6, 2):
        metric.reset()
        for some, truth in zip(logits.split(size), target.split(size)):
            metric.update(some.reshape(shape), truth.reshape(shape))
        results[type(metric).__name__, size] = metric.compute().item()
for (name, size), value in results.items():
    print(f"{name} in batches of {size}: {value:.3f}")
for name in ("BinaryAccuracy", "MultilabelAccuracy"):
    assert results[name, 6] == 1 and abs(results[name, 2] - 1 / 3) < 1e-6, results
PYTHON
