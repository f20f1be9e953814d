#!/usr/bin/env bash
# sentence-transformers: precision="int8" stretches each dimension to the whole range of its own, so that small dimensions count as much as large ones: most of the ten nearest neighbours are others; one expects what rounding all dimensions alike costs, a few in a hundred.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 sentence-transformers==6.2.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import sentence_transformers
from sentence_transformers.util import quantize_embeddings

rng = np.random.default_rng(0)
scales = np.logspace(0, -1.5, 64)  # dimensions of unequal spread, as those of an encoder are (or of Matryoshka ones)


def embeddings(count):
    rows = rng.normal(size=(count, 64)) * scales
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def unit(rows):
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def kept(queries, corpus):
    """Share of the ten nearest neighbours that are those of the embeddings themselves."""
    nearest = np.argsort(-unit(queries) @ unit(corpus).T, axis=1)[:, :10]
    return np.mean([len(set(found) & set(right)) / 10 for found, right in zip(nearest, true)])


corpus, queries = embeddings(2000), embeddings(100)
true = np.argsort(-queries @ corpus.T, axis=1)[:, :10]
ranges = np.stack([corpus.min(0), corpus.max(0)])
int8 = [quantize_embeddings(rows, "int8", ranges=ranges) for rows in (queries, corpus)]
top = np.abs(corpus).max() / 127
rounded = [np.clip(np.round(rows / top), -127, 127) for rows in (queries, corpus)]
found = {"quantize_embeddings(…, 'int8')": kept(*int8), "one scale for all dimensions": kept(*rounded)}
print("sentence-transformers", sentence_transformers.__version__)
for name, value in found.items():
    print(f"{name}: {value:.0%} of the ten nearest neighbours are kept")
assert int8[1].dtype == np.int8 and len(np.unique(int8[1])) == 256
assert list(found.values())[0] < 0.4 and list(found.values())[1] > 0.95, found
PYTHON
