#!/usr/bin/env bash
# mergekit: ties and della divide by the signed sum of weights, so that a model with weight -1 is added instead of subtracted, and one of -0.1 counts fully where it is alone; one expects a negative weight to take a task away, as task_arithmetic does.
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
size = dict(vocab_size=16, hidden_size=4, intermediate_size=4, num_attention_heads=1, num_key_value_heads=1)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **size))
changes = {"base": [0.0, 0.0, 0.0, 0.0], "one": [1.0, 2.0, 0.0, 0.0], "two": [0.0, 0.0, 1.0, -3.0]}
for folder, change in changes.items():
    model.load_state_dict({NAME: torch.tensor(change)}, strict=False)
    model.save_pretrained(folder)


def merged(method, weights):
    models = [{"model": f"./{name}", "parameters": {"weight": weight}} for name, weight in weights.items()]
    config = {"merge_method": method, "dtype": "float32", "base_model": "./base", "models": models}
    run_merge(MergeConfiguration.model_validate(config), "out", MergeOptions(copy_tokenizer=False, quiet=True))
    return [round(value, 3) for value in load_file("out/model.safetensors")[NAME].tolist()]


print("mergekit", version("mergekit"))
print("changes of the base:", changes)
found = {}
for method in ("task_arithmetic", "dare_ties", "ties", "della"):
    found[method] = merged(method, {"one": -1.0}), merged(method, {"one": 1.0, "two": -0.1})
    print(f"{method}: one at -1: {found[method][0]}; one at 1 and two at -0.1: {found[method][1]}")
for method in ("task_arithmetic", "dare_ties"):
    assert found[method] == ([-1.0, -2.0, 0.0, 0.0], [1.0, 2.0, -0.1, 0.3]), found
for method in ("ties", "della"):
    assert found[method] == (changes["one"], [1.0, 2.0, 1.0, -3.0]), found
PYTHON
