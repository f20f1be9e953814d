"""An export is read back as transformers reads it; what is another than was merged is named, and nothing is left."""

import re

import pytest
import torch
from safetensors import safe_open
from support.families import build, save_family

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export
from adamerge.results.read_back import compare_with_files
from adamerge.storage.digest import checksum_of
from adamerge.storage.write_safetensors import SafetensorsWriter


@pytest.fixture
def model(tmp_path):
    own = {name: build("BertForSequenceClassification", "bert", seed) for seed, name in enumerate("ab", 1)}
    paths = save_family(tmp_path, build("BertModel", "bert", 0), own)
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    return MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))


NAMES = ["pooler.dense.weight", "embeddings.word_embeddings.weight", "classifier.weight"]


@pytest.mark.parametrize(("name", "count"), [(NAMES[0], 1), (NAMES[0], 2), (NAMES[1], 3), (NAMES[2], 1), (NAMES[2], 2)])
def test_one_wrong_bit_while_it_is_written_leaves_nothing(tmp_path, model, name, count, monkeypatch):
    """In the merged checkpoint, and in those of the tasks."""
    write, seen = SafetensorsWriter.write, []

    def spoilt(self, own, tensor):
        if own.endswith(name):
            seen.append(own)
            if len(seen) == count:
                tensor = tensor.clone()
                tensor.view(-1).view(torch.uint8)[0] ^= 1
        write(self, own, tensor)

    monkeypatch.setattr(SafetensorsWriter, "write", spoilt)
    with pytest.raises(RuntimeError, match=rf"{re.escape(name)} is not what was written: expected float32 \("):
        export(model, torch.full((len(model.grouping), 2), 0.3), tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base"]


def test_what_the_checksums_are_of_is_what_the_files_hold(tmp_path, model):
    export(model, torch.full((len(model.grouping), 2), 0.3), tmp_path / "merged", dtype=torch.bfloat16)
    with safe_open(tmp_path / "merged/model.safetensors", "pt") as file:
        checksums = {name: checksum_of(file.get_tensor(name)) for name in file.keys()}
    written = model.written_in(torch.bfloat16)
    compare_with_files(written, checksums, tmp_path / "merged")
    with pytest.raises(RuntimeError, match=r"merged: transformers does not find elsewhere\."):
        compare_with_files(written, checksums | {"elsewhere": checksum_of(torch.zeros(1))}, tmp_path / "merged")
    name = f"bert.{NAMES[0]}"
    other = checksums[name]._replace(dtype=torch.float32)
    with pytest.raises(RuntimeError, match=rf"{name} is not what was written: expected float32 .*, found bfloat16 "):
        compare_with_files(written, checksums | {name: other}, tmp_path / "merged")
