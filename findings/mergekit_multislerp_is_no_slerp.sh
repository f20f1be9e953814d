#!/usr/bin/env bash
# mergekit: multislerp of two models is the weighted mean stretched to their norm, at any weights; one expects slerp, since its tangent step is described as such.
# Tangent vectors at the direction of the weighted mean have the weighted sum zero, unless each is stretched to its angle.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 mergekit==0.1.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import math
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

NAME = "model.layers.0.mlp.up_proj.weight"
size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **size))
for folder, column in (("one", 0), ("two", 1)):  # at a right angle, of norm 1
    weight = torch.zeros(8, 8)
    weight[0, column] = 1
    model.load_state_dict({NAME: weight}, strict=False)
    model.save_pretrained(folder)


def angle(method, share):
    """Degrees from the first model's tensor, and the norm, of a merge with this share of the second."""
    if method == "slerp":
        how = {"models": [{"model": "./one"}, {"model": "./two"}], "base_model": "./one", "parameters": {"t": share}}
    else:
        weights = (("./one", 1 - share), ("./two", share))
        how = {"models": [{"model": name, "parameters": {"weight": weight}} for name, weight in weights]}
    config = MergeConfiguration.model_validate({"merge_method": method, "dtype": "float32", **how})
    run_merge(config, f"out_{method}_{share}", MergeOptions(copy_tokenizer=False, quiet=True))
    x, y = load_file(f"out_{method}_{share}/model.safetensors")[NAME][0, :2].tolist()
    return math.degrees(math.atan2(y, x)), math.hypot(x, y)


print("mergekit", version("mergekit"))
print("two tensors of norm 1 at 90 degrees; angle of the merge from the first, and its norm:")
for share in (0.5, 0.25, 0.1):
    found = {method: angle(method, share) for method in ("slerp", "nuslerp", "multislerp")}
    mean = math.degrees(math.atan2(share, 1 - share))
    words = ", ".join(f"{method} {degrees:.2f} ({norm:.2f})" for method, (degrees, norm) in found.items())
    print(f"share {share}: {words}; weighted mean {mean:.2f}")
    for method in ("slerp", "nuslerp"):
        assert abs(found[method][0] - 90 * share) < 0.01, found
    assert abs(found["multislerp"][0] - mean) < 0.01 and abs(found["multislerp"][1] - 1) < 1e-4, found
PYTHON
