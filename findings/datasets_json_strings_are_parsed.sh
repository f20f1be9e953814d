#!/usr/bin/env bash
# datasets: one number in a column of strings of a JSON lines file makes all other strings be parsed, so that "007" becomes 7; one expects them as written, or an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0
cd "$folder"
export HF_HOME="$folder"
venv/bin/python - <<'PYTHON'
import json

import datasets

WORDS = ["007", "1e3", "true", "null", '"quoted"', "[1, 2]", "plain"]


def read(name, values):
    with open(name, "w") as file:
        file.writelines(json.dumps({"label": value}) + "\n" for value in values)
    return datasets.load_dataset("json", data_files=name, split="train", cache_dir="cache")["label"][:]


print("datasets", datasets.__version__)
alone, mixed = read("alone.jsonl", WORDS), read("mixed.jsonl", [*WORDS, 1])
print("written:                 ", WORDS)
print("read:                    ", alone)
print("read, with a row of 1:   ", mixed)
assert alone == WORDS, alone
assert mixed == [7, 1000.0, True, None, "quoted", [1, 2], "plain", 1], mixed
PYTHON
