#!/usr/bin/env bash
# safetensors: a tensor that get_tensor gives is a view that all later calls share; writing into it changes what they return, not the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy safetensors==0.8.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

save_file({"a": torch.zeros(4)}, "x.safetensors")
file = safe_open("x.safetensors", framework="pt")
file.get_tensor("a")[0] = 7
again, on_disk = file.get_tensor("a"), load_file("x.safetensors")["a"]
print("safetensors", safetensors.__version__)
print("get_tensor again:", again.tolist())
print("on disk:         ", on_disk.tolist())
assert again.tolist() == [7.0, 0.0, 0.0, 0.0]
assert on_disk.tolist() == [0.0] * 4
PYTHON
