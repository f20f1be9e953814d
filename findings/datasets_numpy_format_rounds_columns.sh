#!/usr/bin/env bash
# datasets: under the format "numpy" a column of float64 is float32 and one of uint64 int64, where a single row keeps its dtype: two times half a second apart become one, 1e300 inf and 2**63 a negative number, and a batched `map` writes the rounded times back into a column of float64; `dtype=` of with_format makes floats of all integers, and one expects the dtype of the features.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 pyarrow==26.0.1 pandas==3.1.1 datasets==5.2.0
cd "$folder"
export HF_HOME=$folder/cache
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import numpy as np
from datasets import Dataset, disable_progress_bars

disable_progress_bars()
TIMES = [1700000001.5, 1700000002.0]
columns = {"time": TIMES, "wide": [1e300, 1.0], "hash": np.array([2**63, 1], dtype=np.uint64), "small": np.array([1, 2], np.int8)}
rows = Dataset.from_dict(columns).with_format("numpy")

print("datasets", version("datasets"), "numpy", np.__version__)
print("features:", {name: feature.dtype for name, feature in rows.features.items()})
one, all_rows = rows[0], rows[:]
for name in columns:
    print(f"{name}: {one[name]!r} of the first row alone, {all_rows[name][0]!r} of the first of all rows")
assert one["time"] == TIMES[0] and one["wide"] == 1e300 and one["hash"] == 2**63, one
assert {name: str(column.dtype) for name, column in all_rows.items()} == {
    "time": "float32", "wide": "float32", "hash": "int64", "small": "int64"
}, all_rows  # fmt: skip
assert all_rows["time"][0] == all_rows["time"][1] and np.isinf(all_rows["wide"][0]) and all_rows["hash"][0] == -(2**63)

mapped = rows.map(lambda batch: {"time": batch["time"]}, batched=True)
print(f"times after a map that returns them: {mapped.with_format(None)['time'][:]}, as {mapped.features['time'].dtype}; before: {TIMES}")
assert mapped.features["time"].dtype == "float64" and mapped.with_format(None)["time"][:] == [1.7e9, 1.7e9], mapped[:]
one_by_one = rows.map(lambda row: {"time": row["time"]}).with_format(None)["time"][:]
print(f"after one that returns them row by row: {one_by_one}")
assert one_by_one == TIMES, one_by_one
wide = rows.with_format("numpy", dtype=np.float64)[:]
print(f"with dtype=np.float64: {wide['time'][0]!r}, small: {wide['small'].dtype}")
assert wide["time"].tolist() == TIMES and wide["small"].dtype == np.float64, wide
PYTHON
