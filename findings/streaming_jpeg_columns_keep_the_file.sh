#!/usr/bin/env bash
# mosaicml-streaming and litdata: a picture that was opened from a JPEG file and then changed in place (thumbnail, paste, a drawing that blackens a face) is written as the bytes of its file, at its former size and with what was blackened, without a word; one expects the picture that was given, as of its copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.1.3 pillow==13.0.0 tqdm==4.70.1 xxhash==3.8.0 Brotli==1.2.1 zstd==1.5.7.2 \
    python-snappy==0.7.3 catalogue==2.0.10 lightning-utilities==0.15.3 boto3==1.44.8 requests==2.34.2
"$folder/venv/bin/pip" install -q --no-deps mosaicml-streaming==0.13.0 litdata==0.2.76
cd "$folder"
cat >files.py <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import litdata
from PIL import Image, ImageDraw

# Neither of both is used where rows are written or read: transformers is large, torchvision needs a build for its torch.
UNUSED = ("transformers.feature_extraction_utils", "transformers.tokenization_utils_base", "torchvision.datasets")
for name in (*UNUSED, "transformers.models.auto.tokenization_auto", "torchvision.transforms.functional"):
    parts = name.split(".")
    sys.modules.update({".".join(parts[:end]): MagicMock(VisionDataset=object) for end in range(1, len(parts) + 1)})
from streaming import MDSWriter, StreamingDataset  # noqa: E402


def changed(copy):
    """Open the red picture of 64 x 64, make it one of 16 x 16 and blacken it, in place or as a copy."""
    picture = Image.open("red.jpg")
    if copy:
        picture = picture.copy()
    picture.thumbnail((16, 16))
    ImageDraw.Draw(picture).rectangle((0, 0, 16, 16), fill=(0, 0, 0))
    assert picture.size == (16, 16) and picture.getpixel((5, 5)) == (0, 0, 0)
    return picture


def row(copy):
    """Give a row for litdata."""
    return {"image": changed(copy)}


if __name__ == "__main__":
    Image.new("RGB", (64, 64), (200, 10, 10)).save("red.jpg")
    file = Path("red.jpg").read_bytes()
    print("mosaicml-streaming", version("mosaicml-streaming"), "litdata", version("litdata"), "Pillow", version("pillow"))
    print("given: a picture of (16, 16), black; its file: one of (64, 64), red")
    found = {}
    for copy in (False, True):
        with MDSWriter(out=f"mds{copy}", columns={"image": "jpeg"}) as writer:
            writer.write({"image": changed(copy)})
        read = StreamingDataset(local=f"mds{copy}", batch_size=1, shuffle=False)[0]["image"]
        found["streaming", copy] = read.size == (64, 64) and read.getpixel((5, 5))[0] > 190
        print(f"streaming, of {'a copy' if copy else 'what was opened'}: {read.size}, {read.getpixel((5, 5))}")
        litdata.optimize(fn=row, inputs=[copy], output_dir=f"lit{copy}", chunk_bytes="1MB", num_workers=1)
        (chunk,) = Path(f"lit{copy}").glob("*.bin")
        found["litdata", copy] = file in chunk.read_bytes()
        print(f"litdata, of {'a copy' if copy else 'what was opened'}: the chunk holds the file's bytes: {found['litdata', copy]}")
    assert found == {(name, copy): not copy for name in ("streaming", "litdata") for copy in (False, True)}, found
PYTHON
export OMP_NUM_THREADS=1
venv/bin/python files.py 2>log | grep -E '^(mosaicml|given|streaming|litdata)' || { tail -n 20 log; exit 1; }
