#!/usr/bin/env bash
# usearch: an index of dtype "u8" makes negative components zeros, without a word: of embeddings around zero a third of the ten nearest neighbours are kept, where "i8" of the same size keeps 96 % and "e3m2" 93 %, and a vector without a positive component is zeros, at distance 1 from every other; one expects a scale and an offset, or an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 usearch==2.26.6
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import warnings
from importlib.metadata import version

import numpy as np
from usearch.index import Index

random = np.random.default_rng(0)
rows = random.normal(size=(500, 32)).astype(np.float32)
rows[0] = -abs(rows[0])
near = (rows[:50] + 0.3 * random.normal(size=(50, 32))).astype(np.float32)
units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
right = np.argsort(-near @ units.T, axis=1)[:, :10]

print("usearch", version("usearch"), "numpy", np.__version__)
found = {}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for dtype in ("f32", "i8", "e3m2", "u8"):
        index = Index(ndim=32, metric="cos", dtype=dtype)
        index.add(np.arange(len(rows)), rows)
        matches = index.search(near, 10)
        found[dtype] = np.mean([len(set(keys) & set(others)) / 10 for keys, others in zip(matches.keys, right)])
        everything = index.search(rows[0], 3)
        print(f"{dtype}: {found[dtype]:.0%} of the ten nearest are found; the first row, of negative numbers alone, is nearest to "
              f"{everything.keys.tolist()} at {np.round(everything.distances, 2).tolist()}")
        if dtype == "u8":
            assert (index.get(1)[rows[1] < 0] == 0).all() and not index.get(0).any(), index.get(0)
            assert (everything.distances[1:] == 1).all(), everything.distances
        else:
            assert everything.keys[0] == 0 and everything.distances[1] > 0.2, everything
assert found["f32"] > 0.99 and found["i8"] > 0.9 and found["e3m2"] > 0.9 and found["u8"] < 0.5, found
assert not said, said
PYTHON
