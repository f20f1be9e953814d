"""Settings in an export name code beside them only where it was copied."""

import json

import pytest
from support.sentence_encoders import TASKS, save_encoders

from adamerge import Merge


@pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base
def test_code_that_may_run_is_named_where_it_is_there(tmp_path):
    file = save_encoders(tmp_path) / "base/config.json"
    places = {"AutoModelForCausalLM": "mine.Model", "AutoModelForMultipleChoice": "gone.Model"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": places}))
    (tmp_path / "base/mine.py").write_text("class Model:\n    pass\n")
    experts = [str(tmp_path / task) for task in TASKS]
    result = Merge(str(tmp_path / "base"), experts, method="average", trust_remote_code=True).learn()
    folder = result.export(tmp_path / "out").folder
    assert (folder / "mine.py").is_file()
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {"AutoModelForCausalLM": "mine.Model"}
