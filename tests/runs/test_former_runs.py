"""Run directories that version 0.1.0 wrote export, evaluate and resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.releases import needs_late_rounding, readable

from adamerge.merging.coefficients import load_coefficients

FORMER = Path(__file__).parents[1] / "fixtures" / "runs_0_1_0"
FINISHED = ("finished", "regmean", "ties", "closed_form")


@pytest.fixture
def former(tmp_path):
    """A copy of the former runs whose paths name where it lies."""
    folder = shutil.copytree(FORMER, tmp_path / "former")
    for file in folder.rglob("*"):
        if file.suffix in (".yaml", ".json"):
            file.write_text(readable(file.read_text().replace("{root}", str(folder))))
    return folder


def coefficients(run: Path) -> torch.Tensor:
    return load_coefficients(run / "coefficients.safetensors").coefficients


@pytest.mark.parametrize("run", FINISHED)
def test_a_former_run_is_exported(former, main, run):
    code, _, complaint = main("export", former / run, former / "out")
    assert code == 0, complaint
    assert all(line.startswith("note: ") for line in complaint.splitlines())
    tensors = [load_file(file) for file in sorted((former / "out").glob("model*.safetensors"))]
    assert all(tensor.isfinite().all() for tensors_of_file in tensors for tensor in tensors_of_file.values())
    assert len(tensors) > 0


@pytest.mark.parametrize("run", FINISHED)
def test_a_former_run_is_evaluated_to_the_same(former, main, run):
    then = json.loads((former / run / "metrics.json").read_text())
    code, _, complaint = main("evaluate", former / run)
    assert code == 0, complaint
    assert all(line.startswith("note: ") for line in complaint.splitlines())
    now = json.loads((former / run / "metrics.json").read_text())
    assert now["learned"] == pytest.approx(then["learned"])


@pytest.mark.parametrize("run", FINISHED)
def test_a_finished_former_run_is_resumed_to_the_same(former, main, run):
    then = coefficients(former / run)
    code, _, complaint = main("fit", "--config", former / run / "config.yaml", "--ckpt_path", "last")
    assert code == 0, complaint
    torch.testing.assert_close(coefficients(former / run), then, rtol=1e-4, atol=1e-5)


@needs_late_rounding
def test_an_interrupted_former_run_goes_on_where_it_stopped(former, main):
    run = former / "interrupted"
    code, _, complaint = main("fit", "--config", run / "config.yaml", "--ckpt_path", "last")
    assert code == 0, complaint
    expected = load_coefficients(run / "expected_coefficients.safetensors").by_group()
    found = load_coefficients(run / "coefficients.safetensors").by_group()
    assert found.keys() == expected.keys()
    for name in expected:
        if not name.endswith("attention.self.key.bias"):  # softmax cancels it: its gradient is the processor's rounding
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
