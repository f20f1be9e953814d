#!/usr/bin/env bash
# mergekit: without base_model, the config.json of a merge is of a model that the order of a Python set picks; one expects the first model's, in every run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 mergekit==0.1.5
cd "$folder"
cat > make.py <<'PYTHON'
from transformers import LlamaConfig, LlamaForCausalLM

size = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1)
for folder, theta in (("one", 1e4), ("two", 1e6)):
    rope = {"rope_type": "default", "rope_theta": theta}
    LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, rope_parameters=rope, **size)).save_pretrained(folder)
PYTHON
cat > merge.py <<'PYTHON'
import json

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

models = [{"model": folder, "parameters": {"weight": 0.5}} for folder in ("./one", "./two")]
config = MergeConfiguration.model_validate({"merge_method": "linear", "dtype": "float32", "models": models})
run_merge(config, "out", MergeOptions(copy_tokenizer=False, quiet=True))
print(json.load(open("out/config.json"))["rope_parameters"]["rope_theta"])
PYTHON
venv/bin/pip list 2>/dev/null | grep "^mergekit "
venv/bin/python make.py 2>/dev/null
for seed in {0..14}; do  # until both were seen
  rm -rf out
  theta=$(PYTHONHASHSEED=$seed venv/bin/python merge.py 2>/dev/null | tail -1)
  echo "models with rope_theta 10000.0 and 1000000.0, PYTHONHASHSEED=$seed: the merged model has $theta" | tee -a seen
  [ "$(sed 's/.* //' seen | sort -u | wc -l)" -lt 2 ] || break
done
grep -q "has 10000.0$" seen
grep -q "has 1000000.0$" seen
