#!/usr/bin/env bash
# model2vec: `encode` cuts a text at max_length times the median length of the vocabulary's tokens in characters, spaces counted, before it counts tokens, so that a text of 300 tokens loses two thirds under max_length=512; one expects, as documented, that tokens beyond this length are truncated.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 model2vec==0.10.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version
from itertools import product
from string import ascii_lowercase

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer, models, pre_tokenizers

# A vocabulary most of whose tokens are short, as the characters and endings of a vocabulary of sub-words are.
words = ["[UNK]", *map("".join, product(ascii_lowercase, repeat=2)), "unusually", "long"]
tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
model = StaticModel(vectors, tokenizer, max_length=512)

print("model2vec", version("model2vec"))
print(f"max_length {model.max_length}, median length of a token of the vocabulary {model.median_token_length}")
counts = {}
for kind, text in {
    "short words": " ".join(["ab", "cd", "ef"] * 50),
    "short words, more": " ".join(["ab", "cd", "ef"] * 100),
    "long words": " ".join(["unusually"] * 100 + ["long"] * 200),
    "short words, aligned in columns": "        ".join(["ab", "cd"] * 75),
}.items():
    tokens, within = (len(ids) for ids in model.tokenize([text, text[: 512 * model.median_token_length]]))
    counts[kind] = tokens, within
    same = np.allclose(model.encode(text), model.encode(text, max_length=None), atol=1e-6)
    print(f"{kind}: {tokens} tokens, {within} of them in the first 1024 characters; embedded whole: {same}")
    assert tokens < 512 and same == (within == tokens), (kind, counts)
assert counts["short words"] == (150, 150) and counts["long words"][1] < 110 < 300 == counts["long words"][0], counts
ending = " ".join(["unusually"] * 110)
others = model.encode([f"{ending} long", f"{ending} ab cd ef"])
print("two texts of 111 and 113 tokens that end otherwise have one embedding:", bool((others[0] == others[1]).all()))
assert (others[0] == others[1]).all()
PYTHON
