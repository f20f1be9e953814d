#!/usr/bin/env bash
# datasets: words such as NA, null and None in a column of texts of a CSV file become missing values; in JSON lines they stay.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import datasets

datasets.disable_progress_bars()
words = ["NA", "null", "None", "nan", "fine"]
Path("rows.csv").write_text("text\n" + "\n".join(words) + "\n")
Path("rows.jsonl").write_text("\n".join(json.dumps({"text": word}) for word in words))
csv = datasets.load_dataset("csv", data_files="rows.csv", split="train", cache_dir="cache")["text"][:]
lines = datasets.load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache")["text"][:]
print("datasets", datasets.__version__)
print("csv:  ", csv)
print("jsonl:", lines)
assert csv == [None, None, None, None, "fine"]
assert lines == words
PYTHON
