#!/usr/bin/env bash
# datasets: map keeps its former rows when a function that it calls was changed in another file; one expects a changed function to be run, as one that is changed in the script itself is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0
cd "$folder"
echo '{"text": "Hello"}' > rows.jsonl
cat > script.py <<'PYTHON'
import datasets

import cleaning

datasets.disable_progress_bars()


def inner(text):
    return text.WAY()


def outer(row):
    return {"outside": cleaning.clean(row["text"]), "inside": inner(row["text"])}


rows = datasets.load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache")
row = rows.map(outer)[0]
print(row["outside"], row["inside"])
PYTHON
run() { # what the module does, what the script does
    printf 'def clean(text):\n    return text.%s()\n' "$1" > cleaning.py
    sed "s/WAY/$2/" script.py > run.py
    HF_HUB_OFFLINE=1 venv/bin/python -B run.py 2> log || { cat log; exit 1; }
}
venv/bin/python -c 'import datasets; print("datasets", datasets.__version__)'
first=$(run lower lower)
module=$(run upper lower)
script=$(run upper title)
echo "module and script say lower:      $first"
echo "module says upper, script lower:  $module"
echo "module says upper, script title:  $script"
[ "$first" = "hello hello" ]
[ "$module" = "hello hello" ]
[ "$script" = "HELLO Hello" ]
