#!/usr/bin/env bash
# datasets: cast_column from one list of class names to another keeps the numbers, so that every row changes its class; one expects the names to be kept, or an error as concatenate_datasets gives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0
cd "$folder"
export HF_HOME="$folder"
venv/bin/python - <<'PYTHON'
import datasets
from datasets import ClassLabel, Dataset, Features, concatenate_datasets

datasets.disable_progress_bars()


def rows(words, names):
    return Dataset.from_dict({"label": words}, features=Features({"label": ClassLabel(names=names)}))


def words(data):
    return [data.features["label"].int2str(number) for number in data["label"]]


one = rows(["cat", "dog", "owl"], ["cat", "dog", "owl"])
two = rows(["cat", "dog", "owl"], ["owl", "dog", "cat"])
print("datasets", datasets.__version__)
try:
    concatenate_datasets([one, two])
except ValueError:
    print("concatenate_datasets refuses other names of classes")
else:
    raise AssertionError("joined")
cast = two.cast_column("label", one.features["label"])
print("rows of the second:           ", words(two))
print("after cast_column:            ", words(cast))
print("after cast and concatenation: ", words(concatenate_datasets([one, cast])))
assert words(two) == ["cat", "dog", "owl"]
assert words(cast) == ["owl", "dog", "cat"], words(cast)
PYTHON
