#!/usr/bin/env bash
# nngeometry: FIM of a classifier is NaN as a whole as soon as one row is sure of a class that is not among the last ones (a margin of 17 between logits of 3 classes), and wrong by 68 % for such a class before that; one expects p (1 - p), which it gives when the classes have another order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 nngeometry==0.4
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import torch
from nngeometry.metrics import FIM, FIM_MonteCarlo
from nngeometry.object import PMatDiag
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def diagonal(rows, measure=FIM, **options):
    """The diagonal for three classes, whose weights are the identity: rows are logits."""
    model = nn.Linear(3, 3, bias=False)
    model.weight.data = torch.eye(3)
    loader = DataLoader(TensorDataset(torch.tensor(rows)), batch_size=1)
    return measure(model, loader, PMatDiag, variant="classif_logits", **options).get_diag()


def of_class(logits, index, scale):
    """The Fisher information of the logit of a class, which stands in the weight at (index, index), over x squared."""
    return (diagonal([logits]).reshape(3, 3)[index, 0] / scale**2).item()


print("nngeometry", version("nngeometry"), "torch", torch.__version__)
for margin in (5.0, 16.0, 17.0):
    unlikely = torch.tensor([margin, 0.0, 0.0], dtype=torch.float64).softmax(0)[1].item()
    right = unlikely * (1 - unlikely)
    # The same row, with the sure class first and last. The class looked at is one of the other two.
    first = of_class([margin, 0.0, 0.0], 2, margin)
    last = (diagonal([[0.0, 0.0, margin]]).reshape(3, 3)[0, 2] / margin**2).item()
    print(f"margin {margin}: of an unlikely class {right:.3e}; sure class last {last:.3e}, first {first:.3e}")
    assert abs(last / right - 1) < 0.001, (last, right)
    if margin == 5.0:
        assert abs(first / right - 1) < 0.001, (first, right)
    if margin == 16.0:
        assert first < 0.5 * right, (first, right)
    if margin == 17.0:
        assert first != first, first

unsure = [[1.0, 0.5, 0.2]] * 99
alone, joined = diagonal(unsure), diagonal([*unsure, [17.0, 0.0, 0.0]])
print(f"99 unsure rows: all finite, {alone.sum():.3f} in all; with one sure row: {joined.isnan().sum()} of 9 are NaN")
assert alone.isfinite().all() and joined.isnan().all(), (alone, joined)
sampled = diagonal([*unsure, [17.0, 0.0, 0.0]], FIM_MonteCarlo, trials=100)
print(f"FIM_MonteCarlo of the same rows: {sampled.isnan().sum()} are NaN, {sampled.sum():.3f} in all")
assert sampled.isfinite().all(), sampled
PYTHON
