#!/usr/bin/env bash
# mergekit: model_stock of two models whose changes have a negative cosine goes away from both, by any factor (6 changes far at -0.95); one expects something between base and mean.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 mergekit==0.1.5
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

NAME = "model.norm.weight"
size = dict(vocab_size=16, hidden_size=2, intermediate_size=2, num_attention_heads=1, num_key_value_heads=1)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **size))


def merged(cosine):
    """Two changes of length 1 with this cosine, and what model_stock makes of them."""
    changes = {"base": [0.0, 0.0], "one": [1.0, 0.0], "two": [cosine, (1 - cosine**2) ** 0.5]}
    for name, change in changes.items():
        model.load_state_dict({NAME: torch.tensor(change)}, strict=False)
        model.save_pretrained(f"{cosine}/{name}")
    models = [{"model": f"./{cosine}/{name}"} for name in ("one", "two")]
    config = {"merge_method": "model_stock", "dtype": "float32", "base_model": f"./{cosine}/base", "models": models}
    options = MergeOptions(copy_tokenizer=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), f"{cosine}/out", options)
    change, mean = load_file(f"{cosine}/out/model.safetensors")[NAME], torch.tensor([changes["one"], changes["two"]]).mean(0)
    return (change @ mean / mean.square().sum()).item(), change.norm().item()


print("mergekit", version("mergekit"))
found = {cosine: merged(cosine) for cosine in (0.9, 0.3, 0.0, -0.3, -0.6, -0.95)}
for cosine, (share, length) in found.items():
    print(f"cosine {cosine:5.2f}: the merge is {share:7.2f} times the mean of both changes, {length:.2f} times as long as one of them")
    assert abs(share - 2 * cosine / (1 + cosine)) < 1e-3, found
assert 0 < found[0.3][0] < found[0.9][0] < 1 and found[0.9][1] < 1, found
assert found[-0.3][0] < -0.8 and found[-0.95][0] < -30 and found[-0.95][1] > 5, found
PYTHON
