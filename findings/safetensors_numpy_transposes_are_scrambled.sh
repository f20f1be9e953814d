#!/usr/bin/env bash
# safetensors: save_file of safetensors.numpy writes a transposed array's values in another order without a word; one expects the array back, or the refusal of safetensors.torch.
# Its documentation asks for contiguous arrays; NumPy calls a transposed array contiguous too (f_contiguous).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 safetensors==0.8.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

array = np.arange(6, dtype=np.float32).reshape(2, 3)
saved = {"plain": array, "transposed": array.T, "copied": np.ascontiguousarray(array.T)}
save_file(saved, "x.safetensors")
read = load_file("x.safetensors")
print("safetensors", safetensors.__version__)
for name, value in saved.items():
    print(f"{name}: saved {value.tolist()}, read back {read[name].tolist()}")
assert np.array_equal(read["plain"], saved["plain"]) and np.array_equal(read["copied"], saved["copied"])
assert read["transposed"].shape == (3, 2)
assert read["transposed"].ravel().tolist() == [0, 1, 2, 3, 4, 5], read["transposed"]
PYTHON
