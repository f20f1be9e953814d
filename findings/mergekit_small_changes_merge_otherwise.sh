#!/usr/bin/env bash
# mergekit: model_stock and sce weigh small task vectors otherwise than large ones, by fixed thresholds; one expects both to scale with them, as their formulas do.
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
size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **size))


def save(folder, change):
    """The base, with this added to each of the eight numbers of its last norm."""
    model.load_state_dict({NAME: torch.full((8,), change)}, strict=False)
    model.save_pretrained(folder)


def share(method, size, ratio):
    """Change of the merge relative to the first model's; the second model's change is `ratio` times as large."""
    place = f"{method}_{size}"  # mergekit keeps what it read from a folder
    save(f"{place}/base", 0.0), save(f"{place}/one", size), save(f"{place}/two", ratio * size)
    models = [{"model": f"./{place}/{name}"} for name in ("one", "two")]
    config = {"merge_method": method, "dtype": "float32", "base_model": f"./{place}/base", "models": models}
    options = MergeOptions(copy_tokenizer=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), f"{place}/out", options)
    return load_file(f"{place}/out/model.safetensors")[NAME].mean().item() / size


print("mergekit", version("mergekit"))
sizes = (1e-1, 1e-2, 1e-3, 1e-4)
# Two equal models: the cosine is 1, and the merge is this model. One three times as large: mean squares 1 to 9.
found = {(method, size): share(method, size, ratio) for method, ratio in (("model_stock", 1), ("sce", 3)) for size in sizes}
for (method, size), value in found.items():
    print(f"{method}: each number changed by {size:g}: the merge has {value:.3f} times the first model's change")
right = {"model_stock": 1.0, "sce": 0.1 * 1 + 0.9 * 3}
for method, value in right.items():
    assert abs(found[method, 1e-1] - value) < 1e-3, found
assert found["model_stock", 1e-4] < 0.2, found
assert abs(found["sce", 1e-4] - 2) < 1e-3, found  # the plain mean
PYTHON
