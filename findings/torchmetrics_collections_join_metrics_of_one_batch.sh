#!/usr/bin/env bash
# torchmetrics: a MetricCollection joins metrics whose states are equal after the first batch, and then computes one for all; one expects two thresholds to stay two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

# No score of the first batch lies between the two thresholds; both of the second do.
batches = [(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])), (torch.tensor([0.6, 0.6]), torch.tensor([1, 1]))]


def metrics():
    return {f"above {percent} %": BinaryAccuracy(threshold=percent / 100) for percent in (50, 70)}


def measured(collection, order):
    for index in order:
        collection.update(*batches[index])
    return {name: value.item() for name, value in collection.compute().items()}


print("torchmetrics", torchmetrics.__version__)
alone = measured(MetricCollection(metrics(), compute_groups=False), (0, 1))
joined = measured(MetricCollection(metrics()), (0, 1))
turned = measured(MetricCollection(metrics()), (1, 0))
print("each metric for itself:         ", alone)
print("MetricCollection:               ", joined)
print("MetricCollection, other order:  ", turned)
assert alone == turned == {"above 50 %": 1.0, "above 70 %": 0.5}, (alone, turned)
assert joined == {"above 50 %": 1.0, "above 70 %": 1.0}, joined
PYTHON
