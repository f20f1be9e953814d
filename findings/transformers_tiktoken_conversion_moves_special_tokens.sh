#!/usr/bin/env bash
# transformers: convert_tiktoken_to_fast numbers special tokens without gaps, so that those of an encoding with gaps, as o200k_base and cl100k_base have, get other ids, even that of another special token; one expects the ids that the model was trained with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3 tiktoken==0.14.0 blobfile==3.3.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

from tiktoken import Encoding
from transformers import PreTrainedTokenizerFast
from transformers.integrations.tiktoken import convert_tiktoken_to_fast

PIECES = [b"th", b"the", b"og", b" d", b" dog"]
RANKS = {bytes([byte]): byte for byte in range(256)} | {piece: 256 + index for index, piece in enumerate(PIECES)}
# 261 ranks. The gaps are those of o200k_base, whose first free id is 199998, and of cl100k_base, after 100260.
ENCODINGS = {
    "no gap": {"<|endoftext|>": 261, "<|fim_prefix|>": 262, "<|endofprompt|>": 263},
    "gap as in o200k_base": {"<|endoftext|>": 262, "<|endofprompt|>": 281},
    "gap as in cl100k_base": {"<|endoftext|>": 261, "<|fim_prefix|>": 262, "<|endofprompt|>": 280},
}
TEXT = "the dog<|endoftext|>the dog<|endofprompt|>"
print("transformers", version("transformers"), "tiktoken", version("tiktoken"), "tokenizers", version("tokenizers"))
print("text:", TEXT)
found = {}
for index, (name, special) in enumerate(ENCODINGS.items()):
    encoding = Encoding(name, pat_str=r"\s?\p{L}+|\s+|\S", mergeable_ranks=RANKS, special_tokens=special)
    convert_tiktoken_to_fast(encoding, f"converted{index}")
    converted = PreTrainedTokenizerFast.from_pretrained(f"converted{index}")
    own, ids = encoding.encode(TEXT, allowed_special="all"), converted.encode(TEXT)
    print(f"{name}: tiktoken {own}, converted {ids}")
    found[name] = own == ids
    if name.endswith("o200k_base"):
        back = converted.decode(own)
        print(f"  the ids of tiktoken, decoded by the converted one: {back}")
        assert back == "the dog<|endofprompt|>the dog", back
    elif name.endswith("k_base"):
        assert converted.convert_tokens_to_ids("<|endofprompt|>") == 263 and len(converted) == 264, converted
assert list(found.values()) == [True, False, False], found
PYTHON
