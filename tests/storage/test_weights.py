"""A mapped tensor is one view however often it is read, so that memory does not grow with the number of reads."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adamerge.storage.weights import Joined, MappedFiles, Renamed
from adamerge.types import IncompatibleExpertsError

TENSORS, PASSES = 100, 50


def anonymous():
    """Bytes of this process that are in no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.fixture
def files(tmp_path):
    for name in ("base", "one", "two"):
        save_file({f"t{i}": torch.randn(3, 4) for i in range(TENSORS)}, tmp_path / f"{name}.safetensors")
    return {name: MappedFiles([tmp_path / f"{name}.safetensors"]) for name in ("base", "one", "two")}


def test_every_read_gives_the_same_tensor(files):
    base = files["base"]
    renamed = Renamed(base, {"new": "t0"})
    joined = Joined(renamed, files["one"])
    assert base["t0"] is base["t0"] is renamed["new"] is joined["new"]
    assert joined["t1"] is files["one"]["t1"] is not base["t1"]
    assert list(base.pieces("t0", 5))[1].data_ptr() == base["t0"].data_ptr() + 20


def test_memory_does_not_grow_with_the_number_of_passes(files):
    names, sources = list(files["base"].headers), [*files.values(), Renamed(files["one"], {"t0": "t1"})]

    def walk(passes):
        for _ in range(passes):
            for source in sources:
                for name in names:
                    assert name not in source or source[name] is not None
                    assert name not in source or len(list(source.pieces(name, 7))) == 2

    walk(2)
    before = anonymous()
    walk(PASSES)
    leaked = 2 * 64 * TENSORS * 3 * PASSES  # of safetensors, one view per read
    assert anonymous() - before < leaked / 4


LEAK = """
import sys
from pathlib import Path
from safetensors import safe_open

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

reader = safe_open(sys.argv[1], framework="pt")
names = list(reader.keys())
for passes in (10, 400):
    before = anonymous()
    for _ in range(passes):
        for name in names:
            reader.get_tensor(name)
print(anonymous() - before)
"""


def test_the_library_leaks_still(files, tmp_path):
    """In a fresh process, whose heap has no holes; if it does not any more, views need not be kept."""
    file = str(tmp_path / "base.safetensors")
    done = subprocess.run([sys.executable, "-c", LEAK, file], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1_000_000


def test_a_dtype_that_is_not_read_is_named_with_the_way_on(tmp_path):
    save_file({"turns": torch.ones(2, dtype=torch.complex64)}, tmp_path / "model.safetensors")
    with pytest.raises(
        IncompatibleExpertsError, match=r"model\.safetensors: tensor turns has dtype C64; .*or remove it"
    ):
        MappedFiles([tmp_path / "model.safetensors"])
