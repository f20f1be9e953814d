"""A short merge of two real experts, where ../shared/zoo is present."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from adamerge.cli import main, parse_file
from adamerge.merging.coefficients import load_coefficients
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.run_directory import RunDirectory

ZOO = Path(__file__).resolve().parents[2] / "shared" / "zoo"
TASKS = ("trec", "customer")


def unpack(folder):
    """Write the base and two of the zoo's many experts to the subfolder zoo."""
    (folder / "packed/experts").mkdir(parents=True)
    shutil.copy(ZOO / "unpack.py", folder / "packed")
    for task in TASKS:
        (folder / "packed/experts" / task).symlink_to(ZOO / "experts" / task)
    runpy.run_path(str(folder / "packed/unpack.py"))["unpack"](folder / "zoo")


@pytest.mark.long
@pytest.mark.skipif(not ZOO.exists(), reason="../shared/zoo is not here")
def test_real_experts_are_merged_and_load_in_plain_transformers(tmp_path):
    unpack(tmp_path)
    data = ZOO / "data"
    models = [
        {
            "model": str(tmp_path / "zoo" / task),
            "calibration": {"path": str(data / task / "train.jsonl"), "rows": 24},
            "evaluation": {"path": str(data / task / "test.jsonl"), "rows": 30},
        }
        for task in TASKS
    ]
    config = {"base_model": str(tmp_path / "zoo" / "base"), "models": models, "run_dir": str(tmp_path / "run")}
    config |= {
        "method": "expert_merging++",
        "optimizer": {"class_path": "Adam", "init_args": {"lr": 0.02}},
        "trainer": {"max_steps": 4},
    }
    file = tmp_path / "merge.yaml"
    file.write_text(
        yaml.safe_dump(config | {"watch": {"every": 2, "guard": False}, "data": {"batch_size": 8, "micro_batch": 8}})
    )
    assert main(["fit", "--config", str(file)]) == 0

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["expert"]["mean"] > 85
    assert metrics["learned"]["mean"] > 80
    learned = load_coefficients(RunDirectory(tmp_path / "run").coefficients)
    settings = parse_file(file)
    model = build_model(settings, open_experts(settings), tuple(learned.grouping.rows), tmp_path / "none")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "zoo" / "base")("Who wrote Hamlet ?", return_tensors="pt")
    with torch.no_grad():
        expected = model.forward(
            "trec", model.vectors.combine(learned.coefficients, learned.grouping), dict(inputs)
        ).logits
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "merged" / "trec").eval()
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
