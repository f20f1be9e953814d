"""Where computation happens, as far as a machine without a GPU can tell; test_cuda.py tells the rest."""

import re

import pytest
import torch

from adamerge.merging.device import (
    advice_where_full,
    describe_device,
    device_of,
    free_bytes,
    full_precision,
    trainer_on,
)
from adamerge.types import ConfigError


@pytest.fixture
def second_gpu(monkeypatch):
    """Pretend that a program has chosen the second of its GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.mark.parametrize("word", ["auto", "gpu", "cuda"])
def test_a_gpu_is_the_one_that_the_program_has_chosen(second_gpu, word):
    assert device_of(word) == torch.device("cuda", 1)
    assert device_of("cpu") == torch.device("cpu")


def test_without_a_gpu_auto_is_the_cpu_and_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    for word in ("gpu", "cuda"):
        with pytest.raises(ConfigError, match=f"expected a CUDA device for {word}, found none .* Set accelerator: cpu"):
            device_of(word)


@pytest.mark.parametrize(
    ("word", "words"), [("mps", "found mps: Apple's GPUs have no fp64"), ("tpu", "found 'tpu'"), ("", "found ''")]
)
def test_other_devices_are_refused(second_gpu, word, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        device_of(word)


@pytest.mark.parametrize(
    ("device", "wanted", "expected"),
    [
        (torch.device("cpu"), "auto", {"accelerator": "cpu", "devices": 1}),
        (torch.device("cpu"), "cpu", {"accelerator": "cpu", "devices": 1}),
        (torch.device("cuda", 1), "auto", {"accelerator": "cuda", "devices": [1]}),
        (torch.device("cuda", 0), "gpu", {"accelerator": "cuda", "devices": [0]}),
    ],
)
def test_coefficients_are_where_the_task_vectors_are(device, wanted, expected):
    assert trainer_on(device, wanted) == expected


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "gpu"), ("cpu", "mps"), ("cuda:0", "cpu")])
def test_coefficients_elsewhere_are_refused(device, wanted):
    with pytest.raises(ConfigError, match=f"because the task vectors are on {device}, found {wanted}"):
        trainer_on(torch.device(device), wanted)


def test_full_precision_is_without_tf32_and_leaves_the_setting_as_it_was():
    matmul = torch.backends.cuda.matmul
    key, fast, exact = (
        ("fp32_precision", "tf32", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True, False)
    )
    former = getattr(matmul, key)
    try:
        setattr(matmul, key, fast)
        with full_precision(torch.device("cuda", 0)):
            assert getattr(matmul, key) == exact
        assert getattr(matmul, key) == fast
    finally:
        setattr(matmul, key, former)


def test_full_precision_is_without_autocast():
    one = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (one @ one).dtype == torch.bfloat16
        with full_precision(torch.device("cpu")):
            assert (one @ one).dtype == torch.float32


def test_an_exhausted_device_says_what_to_change():
    cause = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
    with pytest.raises(ConfigError, match=r"cpu: its memory is exhausted \(CUDA out of memory\). Set memory: mapped"):
        with advice_where_full(torch.device("cpu")):
            raise cause


def test_the_cpu_is_named_and_has_free_memory():
    assert describe_device(torch.device("cpu")) == "cpu"
    assert free_bytes(torch.device("cpu")) > 0
