#!/usr/bin/env bash
# transformers: version 5 drops add_bos_token and add_eos_token of tokenizer_config.json beside a tokenizer.json without post-processor; one expects both tokens, as version 4 gave them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 requests
"$folder/venv/bin/pip" install -q --target "$folder/four" --no-deps transformers==4.57.6 tokenizers==0.22.1 "huggingface_hub<1"
cd "$folder"
mkdir tokenizer
cat > make.py <<'PYTHON'
import json

from tokenizers import Tokenizer, models, pre_tokenizers

words = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
made = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
made.save("tokenizer/tokenizer.json")
tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
config = {"tokenizer_class": "LlamaTokenizerFast", **tokens, "add_bos_token": True, "add_eos_token": True}
json.dump(config, open("tokenizer/tokenizer_config.json", "w"))
PYTHON
cat > read.py <<'PYTHON'
import sys

import transformers
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("tokenizer")
ids = tokenizer("a b")["input_ids"]
print(f"transformers {transformers.__version__}: add_eos_token {tokenizer.add_eos_token}, 'a b' is {tokenizer.convert_ids_to_tokens(ids)}")
assert tokenizer.add_eos_token == (sys.argv[1] == "ends")
assert ids == ([1, 3, 4, 2] if sys.argv[1] == "ends" else [3, 4]), ids
PYTHON
venv/bin/python make.py
PYTHONPATH=four venv/bin/python read.py ends 2>/dev/null
venv/bin/python read.py does_not_end 2>/dev/null
