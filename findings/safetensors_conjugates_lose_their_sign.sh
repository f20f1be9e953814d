#!/usr/bin/env bash
# safetensors: save_file and save of safetensors.torch write a conjugated tensor (conj, .H, mH, or the imaginary part of one) without the conjugation: the file holds other signs than the tensor, without a word; torch.save and a clone keep them, and one expects the numbers that the tensor prints, as rotary frequencies and Fourier coefficients are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import warnings

import safetensors
import torch
from safetensors.torch import load, load_file, save, save_file

turns = torch.polar(torch.ones(3), torch.tensor([0.0, 1.0, 2.0]))  # as rotary embeddings keep them
CASES = {
    "turns": turns,
    "turns.conj()": turns.conj(),
    "turns.conj().resolve_conj()": turns.conj().resolve_conj(),
    "turns[:, None].H": turns[:, None].H,
    "torch.fft.fft(turns[None]).conj()": torch.fft.fft(turns[None]).conj(),
    "turns[1:2].conj().imag": turns[1:2].conj().imag,
}


def kept(tensor, way):
    """Give the tensor as it comes back from a file."""
    if way == "save_file":
        save_file({"a": tensor}, "a.safetensors")
        return load_file("a.safetensors")["a"]
    if way == "save":
        return load(save({"a": tensor}))["a"]
    torch.save({"a": tensor}, "a.pt")
    return torch.load("a.pt")["a"]


print("safetensors", safetensors.__version__, "torch", torch.__version__)
found = {}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for name, tensor in CASES.items():
        found[name] = {}
        for way in ("torch.save", "save_file", "save"):
            found[name][way] = kept(tensor, way)
        print(f"{name}: {tensor.flatten().tolist()}")
        for way, value in found[name].items():
            print(f"  {way}: {'the same' if torch.equal(value, tensor) else value.flatten().tolist()}")
print("warnings:", *{str(one.message) for one in said})
for name, tensor in CASES.items():
    lazy = tensor.is_conj() or tensor.is_neg()
    assert torch.equal(found[name]["torch.save"], tensor), name
    for way in ("save_file", "save"):
        value, other = found[name][way], tensor.conj() if tensor.is_complex() else -tensor
        assert torch.equal(value, other if lazy else tensor), (name, way, value)
assert [tensor.is_conj() or tensor.is_neg() for tensor in CASES.values()] == [False, True, False, True, True, True]
assert not said, said
PYTHON
