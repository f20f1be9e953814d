"""Names in pickled files are found without running what is in them."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from adamerge.storage.pickled_names import pickled_names

TENSORS = {"lora_unet_down.lora_down.weight": torch.ones(2, 3), "alpha": torch.ones(())}


@pytest.mark.parametrize("new", [True, False])
def test_names_of_tensors_in_files_of_torch(tmp_path, new):
    torch.save(TENSORS, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    assert {*TENSORS} <= {*pickled_names(tmp_path / "a.pt")}


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


def test_nothing_in_the_file_is_run(tmp_path):
    content = pickle.dumps({"name": Runs(tmp_path / "run")})
    (tmp_path / "a.pt").write_bytes(content)
    assert "name" in pickled_names(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("b/data.pkl", content)
    assert "name" in pickled_names(tmp_path / "b.pt")
    assert not (tmp_path / "run").exists()
    pickle.loads(content)  # which would have made it
    assert (tmp_path / "run").exists()


def test_a_damaged_file_has_the_names_before_the_damage(tmp_path):
    content = pickle.dumps(dict.fromkeys(["first", "second"], 1.5))
    (tmp_path / "a.pt").write_bytes(content[: content.index(b"second")])
    assert pickled_names(tmp_path / "a.pt") == ["first"]
    (tmp_path / "b.pt").write_bytes(b"PK\3\4")
    assert pickled_names(tmp_path / "b.pt") == []
