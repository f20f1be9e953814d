#!/usr/bin/env bash
# sacrebleu: BLEU of words, of pairs and of four words in a row have one name and one signature: the same texts are at 86, 76 and 49 under `BLEU` and `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`, in the report for machines too; one expects a signature to tell apart what cannot be compared, as chrF's does by `nc` and `nw`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 sacrebleu==2.6.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import json
from importlib.metadata import version

from sacrebleu.metrics import BLEU, CHRF

SAID, RIGHT = ["the cat sat on the mat today"], [["the cat sat on a mat today"]]


def scored(metric):
    """Give name, signature and score, as the report for machines has them."""
    score = metric.corpus_score(SAID, RIGHT)
    report = json.loads(score.format(is_json=True, signature=metric.get_signature().format()))
    return report["name"], report["signature"], round(report["score"])


print("sacrebleu", version("sacrebleu"))
found = {f"BLEU of order {order}": scored(BLEU(max_ngram_order=order)) for order in (1, 2, 4)}
found |= {f"chrF of order {order}": scored(CHRF(char_order=order)) for order in (2, 6)}
for name, (title, signature, score) in found.items():
    print(f"{name}: {score}, as {title}, {signature}")
bleu = [answer for name, answer in found.items() if "BLEU" in name]
assert len({answer[:2] for answer in bleu}) == 1 and len({answer[2] for answer in bleu}) == 3, found
assert len({answer[:2] for name, answer in found.items() if "chrF" in name}) == 2, found
PYTHON
