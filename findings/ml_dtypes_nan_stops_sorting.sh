#!/usr/bin/env bash
# ml_dtypes: np.sort of a bfloat16 or float8 array with a NaN gives 5, NaN, 1, 2, 4: the NaN stays and parts the numbers, and np.median gives 1; one expects NaN last and a median of NaN, as NumPy's own float16 and float32 have.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import ml_dtypes
import numpy as np

ROW = [5, np.nan, 1, 4, 2]
OWN, OTHERS = ("float16", "float32"), ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def numbers(array):
    """Give an array as a list of floats, without NaN, which equals nothing."""
    return [None if value != value else value for value in array.astype("float64").tolist()]


print("ml_dtypes", version("ml_dtypes"), "numpy", np.__version__)
found = {}
for name in OWN + OTHERS:
    row = np.array(ROW).astype(getattr(ml_dtypes, name, name))
    found[name] = numbers(np.sort(row)), numbers(row[np.argsort(row)]), numbers(np.median(row)[None])[0]
    print(f"{name}: sorted {found[name][0]}, by argsort {found[name][1]}, median {found[name][2]}")
for name in OWN:
    assert found[name] == ([1, 2, 4, 5, None], [1, 2, 4, 5, None], None), found
for name in OTHERS:
    ordered, by_index, median = found[name]
    assert ordered == by_index == [5, None, 1, 2, 4] and median == 1, found
clean = {name: numbers(np.sort(np.array([5, 1, 4, 2]).astype(getattr(ml_dtypes, name)))) for name in OTHERS}
print("without NaN:", clean)
assert all(row == [1, 2, 4, 5] for row in clean.values()), clean

# A NaN at the end is in order. Where it stands decides.
last = np.sort(np.array([5, 1, 4, 2, np.nan]).astype(ml_dtypes.bfloat16))
print("bfloat16 with the NaN last:", numbers(last))
assert numbers(last) == [1, 2, 4, 5, None], last
PYTHON
