#!/usr/bin/env bash
# fusion-bench: layer-wise AdaMerging of a model with tied embeddings learns on merged embeddings beside the base's output matrix, another model than merge_and_unload then gives; one expects one expert at coefficient 1 to be that expert in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 fusion-bench==0.2.33
cd "$folder"
export HF_HOME="$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from copy import deepcopy
from importlib.metadata import version

import torch
from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel, get_layer_wise_weights
from transformers import GPT2Config, GPT2LMHeadModel

IDS = torch.arange(12)[None]


def changed(model):
    """All parameters of an expert are other ones."""
    expert = deepcopy(model)
    for parameter in expert.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return expert


def distance(logits, other):
    return ((logits - other).norm() / other.norm()).item()


print("fusion-bench", version("fusion-bench"), "transformers", version("transformers"))
found = {}
for tied in (False, True):
    torch.manual_seed(0)
    size = dict(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    base = GPT2LMHeadModel(GPT2Config(**size, tie_word_embeddings=tied)).eval()
    expert = changed(base)
    assert (expert.lm_head.weight is expert.transformer.wte.weight) == tied
    with torch.no_grad():
        right = expert(IDS).logits
    coefficients = get_layer_wise_weights(1, len(list(base.parameters())), init_values=1.0)
    options = [dict(tie_weights=False), dict(tie_weights=True)] if tied else [{}]
    for option in options:
        try:
            learning = LayerWiseMergedModel(coefficients, deepcopy(base), [deepcopy(expert)], **option)
            with torch.no_grad():
                while_learning = distance(learning(input_ids=IDS).logits, right)
                written = learning.merge_and_unload()
                after = distance(written(IDS).logits, right)
        except ValueError as error:
            print(f"tied {option}: refused, {str(error)[:62]}")
            continue
        print(f"{'tied' if tied else 'apart'} {option}: logits differ from the expert's by {while_learning:.3f} ", end="")
        print(f"while it learns, by {after:.3f} after merge_and_unload")
        found[tied, option.get("tie_weights", False)] = while_learning, after
assert set(found) == {(False, False), (True, False)}, found
assert max(found[False, False]) < 1e-5, found
assert found[True, False][0] > 0.5 and found[True, False][1] < 1e-5, found
PYTHON
