#!/usr/bin/env bash
# torchmetrics: R2Score, ExplainedVariance and RelativeSquaredError take the spread of targets as a difference of sums of squares in float32: of targets of 100000 +- 1, predictions that are no better than a guess have an R2 of 1.00 where -1 is right, without a word, and at 3000 good ones may have 0; PearsonCorrCoef of the same package and scikit-learn on the same float32 rows are right, and one expects that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 torchmetrics==1.9.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import warnings

import sklearn
import torch
import torchmetrics
from sklearn.metrics import explained_variance_score, r2_score
from torchmetrics.regression import ExplainedVariance, PearsonCorrCoef, R2Score, RelativeSquaredError

ROWS = 1000


def measured(metric, predictions, targets):
    """Give a metric of all rows, handed over in ten batches."""
    for one, other in zip(predictions.split(ROWS // 10), targets.split(ROWS // 10)):
        metric.update(one, other)
    return metric.compute().item()


random = torch.Generator().manual_seed(0)
noise = torch.randn(2, ROWS, generator=random)
found = {}
print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__, "scikit-learn", sklearn.__version__)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for level in (0.0, 100.0, 3000.0, 10000.0, 100000.0):
        for kind, part in (("good", 1.0), ("no better than a guess", 0.0)):
            targets = noise[0] + level
            predictions = part * noise[0] + 0.3**part * noise[1] + level
            row = {metric.__name__: measured(metric(), predictions, targets) for metric in (R2Score, ExplainedVariance, RelativeSquaredError, PearsonCorrCoef)}
            right = r2_score(targets.numpy(), predictions.numpy()), explained_variance_score(targets.numpy(), predictions.numpy())
            found[level, kind] = row, right
            print(f"targets {level:g} +- 1, predictions {kind}: scikit-learn R2 {right[0]:.3f}, explained variance {right[1]:.3f}")
            print("  torchmetrics:", ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
print("warnings:", *{str(one.message) for one in said})
for (level, kind), (row, right) in found.items():
    apart = abs(row["R2Score"] - right[0]), abs(row["ExplainedVariance"] - right[1]), abs(row["RelativeSquaredError"] - (1 - right[0]))
    assert abs(row["PearsonCorrCoef"] - (0.96 if kind == "good" else 0.0)) < 0.05, found
    if level <= 100:
        assert max(apart) < 0.01, found
    if level == 100000 and kind != "good":
        assert right[0] < -0.8 and apart[0] > 1 and apart[1] > 1, found
assert not any("float" in str(one.message) for one in said), said
PYTHON
