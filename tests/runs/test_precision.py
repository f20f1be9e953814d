"""The precision of passes: what auto takes, what computes in it, and that nothing else does."""

import json

import pytest
import torch
from support.families import configuration, write

from adamerge.merging.device import BF16, FP32, each_in_bf16, fastest_precision
from adamerge.runs import precision
from adamerge.runs.precision import precision_of
from adamerge.runs.read_config import merge_config

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("there", "expected"), [({}, FP32), ({"avx512_bf16": True}, BF16), ({"amx_bf16": True, "avx512_bf16": False}, BF16)]
)
def test_a_cpu_that_multiplies_bf16_itself_computes_in_it(monkeypatch, there, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, **there}, raising=False)
    assert fastest_precision(CPU) == expected


def test_a_torch_that_cannot_say_computes_in_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fastest_precision(CPU) == FP32


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "auto"}, BF16),
        ({"method": "auto", "trainer": {"precision": FP32}}, FP32),
        ({"method": "auto", "trainer": {"max_steps": 3}}, BF16),
        ({"method": "auto", "optimizer": "LBFGSB"}, FP32),
        ({"method": "auto", "optimizer": "LBFGS"}, FP32),
        ({"method": "expert_merging++"}, FP32),
        ({"method": "adamerging", "trainer": {"precision": "auto"}}, BF16),
    ],
)
def test_auto_takes_bf16_where_it_is_fast_and_precise_enough(monkeypatch, settings, expected):
    monkeypatch.setattr(precision, "fastest_precision", lambda device: BF16)
    if "optimizer" in settings:
        feasible = "Box" if settings["optimizer"] == "LBFGSB" else "Unbounded"
        settings = {"lr_scheduler": None, "feasible": feasible, "data": {"batch_size": None}, **settings}
    config = merge_config({"base_model": "base", "models": [{"model": "a"}, {"model": "b"}], **settings})
    assert precision_of(config) == expected


@pytest.mark.parametrize("bf16", [False, True])
def test_only_the_pass_computes_in_bf16(bf16):
    def passes():
        for _ in range(2):
            yield torch.is_autocast_enabled("cpu")

    seen = [(inside, torch.is_autocast_enabled("cpu")) for inside in each_in_bf16(passes(), CPU, bf16=bf16)]
    assert seen == [(bf16, False)] * 2


@pytest.mark.parametrize("memory", ["resident", "mapped", "streamed"])
def test_a_run_in_bf16_is_near_that_in_fp32_and_says_so(family, main, memory, monkeypatch):
    """Targets, race, held-out rows and guard too; what is exported is of fp32 coefficients."""
    monkeypatch.setattr(precision, "fastest_precision", lambda device: BF16)
    found = {}
    for asked in ("auto", FP32):
        settings = {"method": "auto", "memory": memory, "trainer": {"max_steps": 4, "precision": asked}}
        code, out, _ = main("fit", "--config", write(configuration(**settings)), "--run_dir", asked)
        assert code == 0
        assert f"precision: {BF16 if asked == 'auto' else FP32}" in out
        assert not torch.is_autocast_enabled("cpu")
        found[asked] = json.loads((family / asked / "metrics.json").read_text())["divergence"]
    for merge, values in found[FP32].items():
        assert found["auto"][merge]["mean"] == pytest.approx(values["mean"], rel=0.1, abs=2e-3)
    assert found["auto"] != found[FP32]
