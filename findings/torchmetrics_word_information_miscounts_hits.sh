#!/usr/bin/env bash
# torchmetrics: WordInfoLost, WordInfoPreserved and MatchErrorRate take the longer text's length less the edit distance for the number of words that agree: where one word is missing and one is added elsewhere they count one hit too few, so that "b c d" for "a b c" has lost 0.89 where 0.56 is right; one expects the numbers of jiwer, as WordErrorRate gives them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 rapidfuzz==3.14.6 jiwer==4.0.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import jiwer
from torchmetrics.text import MatchErrorRate, WordErrorRate, WordInfoLost, WordInfoPreserved

METRICS = {"wer": WordErrorRate, "mer": MatchErrorRate, "wil": WordInfoLost, "wip": WordInfoPreserved}
TEXTS = {
    "one word replaced": ("a b c d", "a b x d"),
    "one word missing": ("a b c d", "a b d"),
    "the first missing, one more at the end": ("a b c", "b c d"),
    "a word of ten moved": ("it was late and so we all went home then", "was late and so we all went home then it"),
}

print("torchmetrics", version("torchmetrics"), "jiwer", version("jiwer"))
found = {}
for name, (right, heard) in TEXTS.items():
    counts = jiwer.process_words(right, heard)
    for metric, kind in METRICS.items():
        found[name, metric] = kind()([heard], [right]).item(), getattr(counts, metric)
    pairs = ", ".join("%s %.3f and %.3f" % (metric, *found[name, metric]) for metric in METRICS)
    print(f"{name}: {counts.hits} hits; torchmetrics and jiwer: {pairs}")
    # The definition: hits per word of the one text, times hits per word of the other.
    assert abs(counts.wip - counts.hits**2 / len(right.split()) / len(heard.split())) < 1e-9, counts
for (name, metric), (ours, theirs) in found.items():
    if metric == "wer" or name.startswith("one word"):
        assert abs(ours - theirs) < 1e-6, (name, metric)
assert abs(found["the first missing, one more at the end", "wil"][0] - 8 / 9) < 1e-6, found
assert abs(found["the first missing, one more at the end", "wil"][1] - 5 / 9) < 1e-6, found
assert abs(found["the first missing, one more at the end", "mer"][0] - 2 / 3) < 1e-6, found
assert abs(found["the first missing, one more at the end", "mer"][1] - 1 / 2) < 1e-6, found
assert abs(found["a word of ten moved", "wip"][0] - 0.64) < 1e-6 < 0.1 < found["a word of ten moved", "wip"][1] - 0.64, found
PYTHON
