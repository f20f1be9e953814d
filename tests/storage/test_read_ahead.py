"""Files are asked for before they are read: the parts that tensors lie in, and no more than fits."""

import os

import pytest
import torch
from safetensors.torch import save_file

from adamerge.storage.read_ahead import read_ahead
from adamerge.storage.weights import InMemory, Joined, MappedFiles, Renamed


@pytest.fixture
def asked(monkeypatch):
    """What was asked for: bytes of the files there."""
    found = []

    def advise(handle, start, size, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        found.append(os.pread(handle, size, start))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return found


@pytest.fixture
def weights(tmp_path):
    save_file({"a": torch.arange(3.0), "b": torch.arange(5).half()}, tmp_path / "one.safetensors")
    return MappedFiles([tmp_path / "one.safetensors"])


def bytes_of(tensor):
    return tensor.numpy().tobytes()


def test_the_bytes_of_a_tensor_are_asked_for_once(weights, asked):
    views = [weights, Renamed(weights, {"a": "a"}), Joined(InMemory({"b": torch.zeros(1)}), weights)]
    assert read_ahead(views, ["a"], 12) == 12
    assert asked == [bytes_of(weights["a"])]
    assert read_ahead([weights], ["b", "a"], 100) == 22
    assert set(asked[1:]) == {bytes_of(weights["a"]), bytes_of(weights["b"])}


def test_more_than_there_is_room_for_is_not_asked_for(weights, asked):
    assert read_ahead([weights], ["a", "b"], 21) == 0
    assert asked == []


def test_a_file_that_is_gone_is_left_to_the_reader(weights, asked, tmp_path):
    (tmp_path / "one.safetensors").unlink()
    read_ahead([weights], ["a"], 100)
    assert asked == []


def test_systems_without_the_call_ask_for_nothing(weights, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    assert read_ahead([weights], ["a"], 100) == 0
