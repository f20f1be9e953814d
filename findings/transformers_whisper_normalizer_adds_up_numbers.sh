#!/usr/bin/env bash
# transformers: the English normaliser of Whisper, by which word error rates are reported, adds a number of digits to a spelled one behind it: "in 1990 three people died" becomes "in 1993 people died", "10 five star hotels" "15 star hotels", and it writes others side by side, "in 1990 ten people" as "in 199010 people", so that a wrong transcript may have no error; it also drops the sign of -5, but not of "minus five", makes 15 of 1,5 and "one" of 1.000; one expects another spelling of the same numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 rapidfuzz==3.14.6 jiwer==4.0.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import jiwer
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

SPOKEN = {  # what it becomes
    "in 1990 ten people died": "in 199010 people died",
    "in 1991 three people died": "in 19913 people died",
    "in 1990 three people died": "in 1993 people died",
    "we saw 10 five star hotels": "we saw 15 star hotels",
    "it cost 300 five years ago": "it cost 305 years ago",
    "in 2000 nineteen people left": "in 2019 people left",
    "minus five degrees": "-5 degrees",
    "-5 degrees": "5 degrees",
    "1,5 metres": "15 meters",
    "1.000 metres": "one meters",
}
PAIRS = [("in 1990 three people died", "in 1993 people died"), ("-5 degrees", "5 degrees"), ("minus five degrees", "-5 degrees")]

normalize = EnglishTextNormalizer({"metres": "meters"})
print("transformers", version("transformers"), "jiwer", version("jiwer"))
found = {text: normalize(text) for text in SPOKEN}
for text, answer in found.items():
    print(f"{text!r} becomes {answer!r}")
rates = [jiwer.wer(normalize(right), normalize(heard)) for right, heard in PAIRS]
for (right, heard), rate in zip(PAIRS, rates):
    print(f"{heard!r} for {right!r}: a word error rate of {rate:.2f}")
assert found == SPOKEN, found
assert rates == [0, 0, 0.5], rates
PYTHON
