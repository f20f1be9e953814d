#!/usr/bin/env bash
# netcal: TemperatureScaling fitted to probabilities in float32, in which models answer, keeps its first temperature of 1 without a word, where the same rows in float64 give 0.2 to 3.4: the calibration error stays what it was; one expects the temperature of float64 to some digits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 scipy==1.17.1 netcal==1.4.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import warnings
from importlib.metadata import version

import numpy as np
from netcal.metrics import ECE
from netcal.scaling import TemperatureScaling
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

ROWS, CLASSES = 5000, 4


def best(logits, labels):
    """Give the factor of the logits that has the least cross-entropy, by a search of our own."""
    loss = lambda factor: -log_softmax(logits * factor, axis=1)[np.arange(ROWS), labels].mean()
    return minimize_scalar(loss, bounds=(0.01, 10), method="bounded").x


random = np.random.default_rng(0)
right = random.normal(size=(ROWS, CLASSES)) * 2
labels = np.array([random.choice(CLASSES, p=row) for row in softmax(right, axis=1)])
print("netcal", version("netcal"), "scipy", version("scipy"), "numpy", np.__version__)
found = {}
for sureness in (0.3, 2.0, 5.0):
    rows = softmax(right * sureness, axis=1)
    truth = best(right * sureness, labels)
    print(f"logits {sureness:g} times as large as they should be: the best factor is {truth:.3f}, "
          f"the calibration error {ECE(10).measure(rows, labels):.3f}")
    for kind in ("float64", "float32"):
        scaling = TemperatureScaling()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scaling.fit(rows.astype(kind), labels)
        error = ECE(10).measure(scaling.transform(rows.astype(kind)), labels)
        found[sureness, kind] = scaling.temperature.item(), truth, error
        print(f"  fitted to {kind}: factor {scaling.temperature.item():.3f}, calibration error {error:.3f}, warnings", *{str(one.message) for one in said})
for (sureness, kind), (factor, truth, error) in found.items():
    if kind == "float64":
        assert abs(factor / truth - 1) < 0.02 and error < 0.02, found
    else:
        assert factor == 1.0 and error > 0.08, found
PYTHON
