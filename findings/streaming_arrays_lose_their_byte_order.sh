#!/usr/bin/env bash
# mosaicml-streaming: MDSWriter writes the bytes of a big-endian array, as np.frombuffer reads them from IDX, FITS or NIfTI files, and StreamingDataset reads them as little-endian ones, without a word: 1 becomes 16777216 and 1.0 becomes 4.6e-41, where a column of `ndarray:int32` refuses it; one expects the numbers that were written, or that error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.1.3 pillow==13.0.0 tqdm==4.70.1 xxhash==3.8.0 Brotli==1.2.1 zstd==1.5.7.2 \
    python-snappy==0.7.3 catalogue==2.0.10
"$folder/venv/bin/pip" install -q --no-deps mosaicml-streaming==0.13.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
import sys
import warnings
from importlib.metadata import version
from unittest.mock import MagicMock

import numpy as np

# Neither of both is used where rows are written or read: transformers is large, torchvision needs a build for its torch.
UNUSED = ("transformers.feature_extraction_utils", "transformers.tokenization_utils_base", "torchvision.datasets")
for name in (*UNUSED, "transformers.models.auto.tokenization_auto", "torchvision.transforms.functional"):
    parts = name.split(".")
    sys.modules.update({".".join(parts[:end]): MagicMock(VisionDataset=object) for end in range(1, len(parts) + 1)})
from streaming import MDSWriter, StreamingDataset  # noqa: E402

NUMBERS = [1, 2, 300]
DTYPES = ("i4", "u2", "f4", "f8")

print("mosaicml-streaming", version("mosaicml-streaming"), "numpy", np.__version__)
found = {}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for order, name in (("<", "little-endian"), (">", "big-endian")):
        with MDSWriter(out=name, columns=dict.fromkeys(DTYPES, "ndarray")) as writer:
            writer.write({dtype: np.array(NUMBERS, dtype=order + dtype) for dtype in DTYPES})
        row = StreamingDataset(local=name, batch_size=1, shuffle=False)[0]
        for dtype in DTYPES:
            found[name, dtype] = row[dtype].tolist()
            print(f"{NUMBERS} of dtype {order}{dtype}: {found[name, dtype]}")
for (name, dtype), numbers in found.items():
    swapped = np.array(NUMBERS, dtype=dtype).byteswap().tolist()
    assert numbers == (NUMBERS if name == "little-endian" else swapped), (name, dtype)
assert found["big-endian", "i4"][0] == 16777216, found
assert not any("endian" in str(one.message) or "order" in str(one.message) for one in said), said
try:
    with MDSWriter(out="checked", columns={"row": "ndarray:int32"}) as writer:
        writer.write({"row": np.array(NUMBERS, dtype=">i4")})
except ValueError as error:
    print("a column of ndarray:int32 refuses >i4:", error)
else:
    raise AssertionError("ndarray:int32 takes >i4")
PYTHON
