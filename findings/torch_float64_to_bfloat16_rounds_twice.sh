#!/usr/bin/env bash
# torch: float64 to bfloat16 or float16 goes through float32, and so does not give the nearest number; one expects one rounding, as NumPy's float16 has.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import torch

print("torch", torch.__version__, "numpy", np.__version__)
wrong = {}
for dtype, bits in ((torch.bfloat16, 7), (torch.float16, 10)):
    low, high = 1.0, 1 + 2.0**-bits  # neighbours in this dtype
    value = 1 + 2.0 ** -(bits + 1) + 2.0**-40  # a little above their middle
    wrong[dtype] = torch.tensor(value, dtype=torch.float64).to(dtype).double().item()
    print(f"{value!r} between {low} and {high}: nearest is {high}, {dtype} has {wrong[dtype]}")
print("numpy.float16:", float(np.float16(1 + 2.0**-11 + 2.0**-40)))
assert float(np.float16(1 + 2.0**-11 + 2.0**-40)) == 1 + 2.0**-10
assert set(wrong.values()) == {1.0}, wrong
PYTHON
