#!/usr/bin/env bash
# mergekit: nuslerp with nuslerp_row_wise interpolates the columns of a weight, and without it the rows; the documentation says the opposite.
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

NAME = "model.layers.0.mlp.up_proj.weight"
size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
torch.manual_seed(0)
models = [LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **size)) for _ in range(2)]
for folder, model in zip(("one", "two"), models):
    torch.nn.init.normal_(model.get_parameter(NAME))
    model.save_pretrained(folder)


def slerp(one, two):
    """Halfway between two vectors on a great circle, by the formula."""
    angle = torch.acos(torch.nn.functional.cosine_similarity(one, two, dim=0))
    return (one + two) * torch.sin(angle / 2) / torch.sin(angle)


one, two = (load_file(f"{folder}/model.safetensors")[NAME] for folder in ("one", "two"))
expected = {
    "rows": torch.stack([slerp(one[i], two[i]) for i in range(8)]),
    "columns": torch.stack([slerp(one[:, i], two[:, i]) for i in range(8)], dim=1),
}
print("mergekit", version("mergekit"))
found = {}
for row_wise in (True, False):
    config = {
        "merge_method": "nuslerp",
        "dtype": "float32",
        "models": [{"model": f"./{name}", "parameters": {"weight": 0.5}} for name in ("one", "two")],
        "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": row_wise},
    }
    run_merge(MergeConfiguration.model_validate(config), f"out_{row_wise}", MergeOptions(copy_tokenizer=False, quiet=True))
    merged = load_file(f"out_{row_wise}/model.safetensors")[NAME]
    errors = {kind: (merged - value).abs().max().item() for kind, value in expected.items()}
    found[row_wise] = min(errors, key=errors.get)
    print(f"nuslerp_row_wise: {str(row_wise).lower()}: largest distance from slerp of " + ", ".join(f"{k} {e:.6f}" for k, e in errors.items()))
    assert errors[found[row_wise]] < 1e-5, errors
assert found == {True: "columns", False: "rows"}, found
PYTHON
