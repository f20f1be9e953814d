#!/usr/bin/env bash
# transformers: T5Tokenizer puts a blank before every text and takes double ones away whatever spiece.model says, so that a tokenizer trained with add_dummy_prefix=False or remove_extra_whitespaces=False reads texts otherwise than sentencepiece; one expects its options to be read with its pieces, as the normalisation is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.2
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version
from pathlib import Path

import sentencepiece
from transformers import T5Tokenizer

LINES = ["the small brown dog sat here and said so to a red hen", "that baked bread ; def f ( x ) : return x in two spaces"]
TEXTS = ["the dog sat", "bread", "two  spaces", "  return x", " bread"]
OPTIONS = {
    "none": {},
    "add_dummy_prefix=False": dict(add_dummy_prefix=False),
    "remove_extra_whitespaces=False": dict(remove_extra_whitespaces=False),
}
Path("lines.txt").write_text("\n".join(LINES * 50))


def read_otherwise(folder, **options):
    """Train a tokenizer with T5's special tokens, and list the texts that transformers reads otherwise."""
    Path(folder).mkdir()
    special = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    sizes = dict(vocab_size=60, hard_vocab_limit=False, minloglevel=3)
    sentencepiece.SentencePieceTrainer.train(input="lines.txt", model_prefix=f"{folder}/spiece", **special, **sizes, **options)
    own = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/spiece.model")
    loaded = T5Tokenizer.from_pretrained(folder)
    pieces = {text: (own.encode(text, out_type=str), loaded.tokenize(text)) for text in TEXTS}
    return {text: pair for text, pair in pieces.items() if pair[0] != pair[1]}


print("transformers", version("transformers"), "tokenizers", version("tokenizers"), "sentencepiece", version("sentencepiece"))
found = {name: read_otherwise(f"model{index}", **options) for index, (name, options) in enumerate(OPTIONS.items())}
for name, others in found.items():
    print(f"options of the training: {name}; {len(others)} of {len(TEXTS)} texts are read otherwise")
    for text, (own, loaded) in others.items():
        print(f"  {text!r}: sentencepiece {' '.join(own)}, transformers {' '.join(loaded)}")
assert not found["none"] and set(found["add_dummy_prefix=False"]) == set(TEXTS), found
assert set(found["remove_extra_whitespaces=False"]) == {"two  spaces", "  return x", " bread"}, found
assert all(loaded[0].startswith("▁") and not own[0].startswith("▁") for own, loaded in found["add_dummy_prefix=False"].values())
PYTHON
