#!/usr/bin/env bash
# mosaicml-streaming and litdata: pictures with a palette, as most GIF and many PNG files and masks have one, lose it where they are written as `pil`: red, green and blue are read as black, without a word; the `png` of the one keeps them, and one expects every picture to come back.
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
from unittest.mock import MagicMock

import litdata
from PIL import Image

# Neither of both is used where rows are written or read: transformers is large, torchvision needs a build for its torch.
UNUSED = ("transformers.feature_extraction_utils", "transformers.tokenization_utils_base", "torchvision.datasets")
for name in (*UNUSED, "transformers.models.auto.tokenization_auto", "torchvision.transforms.functional"):
    parts = name.split(".")
    sys.modules.update({".".join(parts[:end]): MagicMock(VisionDataset=object) for end in range(1, len(parts) + 1)})
from streaming import MDSWriter, StreamingDataset  # noqa: E402

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def picture(mode):
    """Make a picture of a red, a green and a blue pixel, with a palette for mode P."""
    made = Image.new("RGB", (3, 1))
    made.putdata(COLOURS)
    return made.quantize(3) if mode == "P" else made


def row(mode):
    """Give a row for litdata."""
    return {"image": picture(mode).copy()}


def colours(read):
    """Give the colours that one sees."""
    return [read.convert("RGB").getpixel((x, 0)) for x in range(3)]


if __name__ == "__main__":
    print("mosaicml-streaming", version("mosaicml-streaming"), "litdata", version("litdata"), "Pillow", version("pillow"))
    found = {}
    litdata.optimize(fn=row, inputs=["RGB", "P"], output_dir="lit", chunk_bytes="1MB", num_workers=1)
    written = litdata.StreamingDataset("lit")
    for index, mode in enumerate(("RGB", "P")):
        assert colours(picture(mode)) == COLOURS
        for encoding in ("png", "pil"):
            with MDSWriter(out=f"{encoding}{mode}", columns={"image": encoding}) as writer:
                writer.write({"image": picture(mode)})
            read = StreamingDataset(local=f"{encoding}{mode}", batch_size=1, shuffle=False)[0]["image"]
            found["streaming", encoding, mode] = colours(read)
        found["litdata", "pil", mode] = colours(written[index]["image"])
    for (package, encoding, mode), answer in found.items():
        print(f"{package}, {encoding}, mode {mode}: {answer}")
    for (_, encoding, mode), answer in found.items():
        assert answer == ([(0, 0, 0)] * 3 if (encoding, mode) == ("pil", "P") else COLOURS), found
PYTHON
export OMP_NUM_THREADS=1
venv/bin/python files.py 2>log | grep -E '^(mosaicml|streaming|litdata)' || { tail -n 20 log; exit 1; }
