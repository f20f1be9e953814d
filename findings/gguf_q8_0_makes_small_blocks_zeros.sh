#!/usr/bin/env bash
# gguf: Q8_0 makes blocks whose numbers are below about 3.8e-6 zeros, and is 22 % off at 1e-5, where Q4_0 with half the bits keeps them to 7 %, for its scale is a 127th of the largest number, in float16; one expects eight bits to keep what four keep.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 gguf==0.19.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType, dequantize, quantize

NAMES = ("Q8_0", "Q4_0", "BF16")


def error(rows, name):
    """Give the relative error of a round trip."""
    kind = GGMLQuantizationType[name]
    return float(np.linalg.norm(dequantize(quantize(rows, kind), kind) - rows) / np.linalg.norm(rows))


print("gguf", version("gguf"))
rows = np.random.default_rng(0).uniform(-1, 1, size=(8, 256)).astype(np.float32)
found = {}
for size in (1.0, 1e-3, 1e-5, 3.5e-6, 1e-6):
    for name in NAMES:
        found[name, size] = error(rows * np.float32(size), name)
    print(f"numbers up to {size:g}:", ", ".join(f"{name} is off by {found[name, size]:.1%}" for name in NAMES))
assert found["Q8_0", 1.0] < 0.01 < found["Q4_0", 1.0] < 0.08, found
assert found["Q8_0", 1e-5] > 0.2 and found["Q4_0", 1e-5] < 0.08, found
assert found["Q8_0", 3.5e-6] == found["Q8_0", 1e-6] == 1.0 and found["Q4_0", 1e-6] < 0.08, found
PYTHON
