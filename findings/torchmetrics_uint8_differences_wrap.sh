#!/usr/bin/env bash
# torchmetrics: MeanAbsoluteError and others subtract uint8 tensors in uint8, where 3 - 5 is 254: two images that differ by up to nine grey levels have an error of 121 where 4.6 is right, and at up to sixty a mean square of 104 where 1069 is right, without a word; PeakSignalNoiseRatio with a data_range is right, SSIM refuses uint8, and one expects either.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import warnings

import torch
import torchmetrics
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.regression import (
    MeanAbsoluteError,
    MeanSquaredError,
    SymmetricMeanAbsolutePercentageError,
    WeightedMeanAbsolutePercentageError,
)

METRICS = {
    "MeanAbsoluteError": MeanAbsoluteError,
    "WeightedMeanAbsolutePercentageError": WeightedMeanAbsolutePercentageError,
    "SymmetricMeanAbsolutePercentageError": SymmetricMeanAbsolutePercentageError,
    "MeanSquaredError": MeanSquaredError,
    "PeakSignalNoiseRatio": lambda: PeakSignalNoiseRatio(data_range=255.0),
}
random = torch.Generator().manual_seed(0)
image = torch.randint(0, 256, (1, 3, 64, 64), generator=random).to(torch.uint8)
found = {}
print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for levels in (9, 60):
        moved = (image.int() + torch.randint(-levels, levels + 1, image.shape, generator=random)).clamp(0, 255).to(torch.uint8)
        apart = (moved.double() - image.double()).abs()
        print(f"images that differ by up to {levels} levels: mean {apart.mean():.2f}, mean of squares {apart.square().mean():.1f}")
        for name, metric in METRICS.items():
            found[levels, name] = [metric()(moved.to(dtype), image.to(dtype)).item() for dtype in (torch.uint8, torch.float32)]
            print("  %s: %.4f of uint8, %.4f of float32" % (name, *found[levels, name]))
        assert abs(found[levels, "MeanAbsoluteError"][1] - apart.mean()) < 1e-3, found
        assert abs(found[levels, "MeanSquaredError"][1] - apart.square().mean()) < 1e-2, found
print("warnings:", *{str(one.message) for one in said})
try:
    StructuralSimilarityIndexMeasure(data_range=255.0)(moved, image)
except (RuntimeError, TypeError) as error:
    print("SSIM refuses uint8:", str(error)[:80])
else:
    raise AssertionError("SSIM takes uint8")
assert found[9, "MeanAbsoluteError"][0] > 20 * found[9, "MeanAbsoluteError"][1], found
assert found[9, "SymmetricMeanAbsolutePercentageError"][0] > 100, found  # it is at most 2
assert found[60, "MeanSquaredError"][0] < 0.5 * found[60, "MeanSquaredError"][1], found
for levels in (9, 60):
    assert abs(found[levels, "PeakSignalNoiseRatio"][0] - found[levels, "PeakSignalNoiseRatio"][1]) < 1e-3, found
assert not any("uint8" in str(one.message) for one in said), said
PYTHON
