#!/usr/bin/env bash
# mergekit: arcee_fusion chooses changes by the divergence of two softmaxes of weights in the dtype of the files: of two float16 models that are 1e-4 apart, as after fine-tuning, the merge is the second one whole, where it has 17 % of the same changes at 1e-2; in float32 half of those that are taken at 1e-2 are others at 1e-4, for the divergences are rounding; one expects the same choice among the same changes at every size.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 mergekit==0.1.5
cd "$folder"
export OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

NAME = "model.embed_tokens.weight"
size = dict(vocab_size=256, hidden_size=1024, intermediate_size=16, num_attention_heads=1, num_key_value_heads=1)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **size))
base = 0.03 * torch.randn(256, 1024)
change = torch.randn(256, 1024) * torch.logspace(-0.5, 0.5, 256)[:, None]  # some rows change ten times as much


def taken(step, dtype):
    """Give which changes are in the merge of two models that are that far apart."""
    folders = [f"{name}_{dtype}_{step:g}" for name in ("base", "tuned", "out")]  # a new one each: mergekit keeps files open
    for folder, weights in zip(folders, (base, base + step * change)):
        model.load_state_dict({NAME: weights}, strict=False)
        model.to(dtype).save_pretrained(folder)
        model.float()
    models = [{"model": f"./{folder}"} for folder in folders[:2]]
    config = {"merge_method": "arcee_fusion", "base_model": models[0]["model"], "models": models, "dtype": str(dtype)[6:]}
    run_merge(MergeConfiguration.model_validate(config), folders[2], MergeOptions(copy_tokenizer=False, quiet=True))
    first, second, merged = (load_file(f"{folder}/model.safetensors")[NAME] for folder in folders)
    return merged != first, second != first


print("mergekit", version("mergekit"), "torch", torch.__version__)
found, kept = {}, {}
for dtype in (torch.float32, torch.float16):
    for step in (1e-2, 1e-3, 1e-4, 1e-5):
        mine, differ = taken(step, dtype)
        first, _ = found.setdefault(dtype, (mine, differ))
        share = (mine.sum() / differ.sum()).item()
        kept[dtype, step] = share, ((mine & first).sum() / first.sum()).item()
        print(f"{dtype}, changes of {step:g}: %.0f%% of them are taken; of those taken at 1e-2, %.0f%%" % tuple(100 * part for part in kept[dtype, step]))
PYTHON
