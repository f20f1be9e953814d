"""What a run notes of itself for its report."""

from pathlib import Path

import pytest
import torch
from support.families import configuration, save_speaking_family, write

from adamerge.calibration.agreement import HeldOut
from adamerge.calibration.row_scores import predictions
from adamerge.cli import parse_file
from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data
from adamerge.runs.run_facts import one_of_each_row, rows_of


@pytest.mark.parametrize(
    ("form", "shape", "one"),
    [
        ("classes", (3, 5), True),
        ("labels", (3, 5), True),
        ("numbers", (3, 2), True),
        ("vectors", (3, 16), True),
        ("spans", (3, 2, 7), False),
        ("classes", (3, 4, 5), False),
    ],
)
def test_rows_with_one_prediction_each_are_counted_whatever_is_predicted(form, shape, one):
    found = predictions(torch.rand(shape), None, form)
    held_out = HeldOut({"news": range(6)}, {"news": [found, found]}, {}, 3)
    assert one_of_each_row(held_out) == ({"news": 6} if one else {})


def test_rows_that_are_dropped_or_used_twice_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_speaking_family(tmp_path, "LlamaForCausalLM", "llama")
    with Path("mood.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "good film", "completion": ""}\n' * 3)
    config = parse_file(Path(write(configuration(data={"positions": "completion", "pseudo_answers": None}))))
    data = load_data(config, open_experts(config))
    counts = rows_of(data, HeldOut({"mood": range(4)}, {}, {}, 3))
    assert counts["mood"] == {
        "calibration": 12,
        "held out of them": 4,
        "dropped from calibration": 3,
        "evaluation": 12,
        "dropped from evaluation": 3,
        "in both": 15,
    }
    assert {counts["topic"][key] for key in counts["topic"] if key.startswith("dropped")} == {0}
