"""An expert's bytes are read once for both hashing and inspection."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import build, save_family

from adamerge.calibration.cache_keys import digest_of_experts
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.low_rank import Adapted, Change, LowRank
from adamerge.runs.inputs import hash_files
from adamerge.storage.weights import InMemory, MappedFiles


@pytest.fixture
def opened(tmp_path):
    base = build("BertModel", "bert", 0)
    experts = {name: build("BertForSequenceClassification", "bert", seed) for seed, name in enumerate("ab", 1)}
    paths = save_family(tmp_path, base, experts)
    return {name: open_checkpoint(path) for name, path in paths.items()}


def test_files_are_hashed_while_they_are_inspected(opened, monkeypatch):
    read = []
    whole = MappedFiles.__getitem__
    monkeypatch.setattr(MappedFiles, "__getitem__", lambda own, name: read.append((own, name)) or whole(own, name))
    experts = from_checkpoints(opened[""], {name: opened[name] for name in "ab"})
    read.clear()
    inspect_weights(experts)
    hashes = {name: hash_files(checkpoint) for name, checkpoint in opened.items()}
    assert len({digest_of_experts(experts) for _ in range(3)}) == 1
    assert len(read) == len(set(read))  # no tensor twice
    for name, checkpoint in opened.items():
        (file,) = checkpoint.tensors.files
        assert hashes[name][file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
        (digest,) = checkpoint.tensors.files.values()
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        of_head = 0 if name else sum(t.nbytes for n, t in load_file(file).items() if "classifier" in n)
        assert digest.bytes_read <= header + of_head


def test_the_digest_equals_that_of_the_file_in_any_order_of_reading(opened):
    checkpoint = opened["a"]
    (file,) = checkpoint.tensors.files
    for name in reversed(list(checkpoint.tensors.headers)):
        assert sum(len(piece) for piece in checkpoint.tensors.pieces(name, 7)) == checkpoint.tensors[name].numel()
    assert checkpoint.tensors.files[file].hexdigest() == hashlib.sha256(file.read_bytes()).hexdigest()


def test_experts_with_other_weights_or_configuration_have_another_digest(opened):
    def digest():
        again = {name: open_checkpoint(str(checkpoint.folder)) for name, checkpoint in opened.items()}
        return digest_of_experts(from_checkpoints(again.pop(""), again))

    before = digest()
    assert digest() == before
    config = opened["a"].folder / "config.json"
    config.write_text(config.read_text().replace("gelu", "relu"))
    other = digest()
    assert other != before
    file = opened["b"].folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors["classifier.bias"][0] += 1
    save_file(tensors, file, {"format": "pt"})
    assert digest() not in (before, other)


def test_pieces_of_an_adapter_are_computed_from_a_few_rows():
    """All adapters of a pool are inspected side by side: as dense matrices they took as much as so many experts."""
    base, left, right = torch.randn(9, 6), torch.randn(9, 2), torch.randn(2, 6)
    adapter = Adapted(InMemory({"w": base}), {"w": Change(low_rank=lambda: LowRank(left, right, 0.5))}, {})
    pieces = list(adapter.pieces("w", 10))
    assert [len(piece) for piece in pieces] == [10, 10, 10, 10, 10, 4]
    assert max(piece.untyped_storage().nbytes() for piece in pieces) <= 3 * 6 * 4
    torch.testing.assert_close(torch.cat(pieces).view(9, 6), base + 0.5 * left @ right)


def test_depths_are_in_the_modules_order(tmp_path):
    models = [build("LlamaForCausalLM", "llama", seed) for seed in range(3)]
    paths = save_family(tmp_path, models[0], dict(zip("ab", models[1:], strict=True)))
    opened = {name: open_checkpoint(path) for name, path in paths.items()}
    experts = from_checkpoints(opened.pop(""), opened)
    assert [*inspect_weights(experts).products] == ["model", "model.layers.0", "model.layers.1", "lm_head"]
