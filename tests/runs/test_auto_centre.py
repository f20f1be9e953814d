"""`centre: auto`: the merge that diverges least from the experts on held-out rows is the centre."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import configuration, write
from support.networks import divergence_of, merge, summed

from adamerge import ConfigError
from adamerge.calibration.race import Auto, CentreChoice
from adamerge.data.rows import Rows
from adamerge.merging.coefficients import load_coefficients
from adamerge.runs.read_config import merge_config, read_config
from adamerge.runs.save_config import resolved
from adamerge.transforms import Wudi

MERGES = ("RegMean × 1", "Esm × 1", "FeatCal × 1", "Aswudi() × 1", "Aswudi(start='mean') × 1")


@pytest.fixture(scope="module")
def learned():
    """A merge of networks over the winner of a race among three merges."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return merge(centre=Auto(merges=[Wudi()], scales=[1.0], rows=30), watch={"every": 2}).learn()


def test_the_winner_is_the_merge_that_diverges_least(learned):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wudi = merge(method="wudi", watch={}, trainer={}, optimizer=None).learn().module("task1").state_dict()
    merges = {"average": summed(1 / 3), "task arithmetic at 0.3": summed(0.3), "Wudi × 1": wudi}
    values = {name: divergence_of(weights, learned._held_out) for name, weights in merges.items()}
    best = merges[min(values, key=values.get)]
    assert len({round(value, 5) for value in values.values()}) == 3
    for name in learned.model.vectors.shapes:
        torch.testing.assert_close(learned.model.vectors.centre(name), best[name], rtol=1e-4, atol=1e-6)


def test_a_run_keeps_the_table_and_its_export_reads_the_winner(family, main):
    refit = {"class_path": "FeatCal", "init_args": {"after": "DcMerge", "rows": 8}}
    merges = ["RegMean", "Esm", refit, "Aswudi", {"class_path": "Aswudi", "init_args": {"start": "mean"}}]
    options = {"class_path": "Auto", "init_args": {"merges": merges, "scales": [1.3, 1.0], "rows": 4}}
    config = configuration(
        method="expert_merging", centre=options, watch={"every": 5}, trainer={"max_steps": 1, "accelerator": "cpu"}
    )
    config["models"] = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    code, said, complaint = main("fit", "--config", write(config), "--run_dir", "run")
    assert code == 0, complaint
    table = json.loads(Path("run/centre_race.json").read_text())
    assert [one["rows"] for one in table["rounds"]] == [4, 8]  # of 32 rows, 8 are held out
    first, last = (one["divergence"] for one in table["rounds"])
    assert set(first) == {"average", "task arithmetic at 0.3", *MERGES}
    assert set(last) == set(sorted(first, key=first.get)[:4])
    assert len(set(first.values())) == 7
    assert table["winner"] == min(last, key=last.get)
    assert f"centre: {table['winner']}, which diverges least" in said
    assert load_coefficients(Path("run/coefficients.safetensors")).centre == f"auto: {table['winner']}"
    assert f"centre: auto: {table['winner']};" in Path("run/merged/README.md").read_text()
    assert "race of centres" in said
    assert "note: centre: merges race at 1 times their published scale alone" in said  # learning takes one step
    assert not Path("run/centres").exists()
    assert "Without labels: best by divergence on held-out rows is" in said  # no row has a label
    saved = read_config(Path("run/config.yaml"), lambda note: None)
    assert saved.centre == merge_config(config).centre
    before = Path("run/centre.safetensors").stat().st_mtime_ns
    assert main("export", "run", "again")[0] == 0
    assert Path("run/centre.safetensors").stat().st_mtime_ns == before
    for file in Path("run/merged").glob("*.safetensors"):
        written, again = load_file(file), load_file(Path("again") / file.name)
        assert all(torch.equal(tensor, again[name]) for name, tensor in written.items())
    code, said, complaint = main("replay", "run", "redone")
    assert (code, complaint) == (0, "")
    assert "8 rows" in said  # it races again, on the held-out rows of the run
    assert "16 rows" not in said


def test_three_ways_of_asking_are_one(family):
    models = {"base_model": "base", "models": [{"model": "mood", "calibration": "mood.jsonl"}]}
    short = merge_config({**models, "centre": "auto"})
    assert isinstance(short.chosen_centre, Auto)
    assert short.chosen_centre == merge_config({**models, "centre": Auto()}).centre
    assert short.chosen_centre == merge_config({**models, "centre": "Auto"}).centre
    own = merge_config({**models, "centre": Auto(merges=[Wudi()], scales=[1.0])})
    Path("saved.yaml").write_text(resolved(own))
    assert read_config(Path("saved.yaml"), lambda note: None).centre == own.centre


def test_no_pass_has_more_rows_than_micro_batch(monkeypatch):
    """Neither to learn, nor to judge merges, nor to store what the experts answer."""
    sizes, batch = [], Rows.batch
    monkeypatch.setattr(Rows, "batch", lambda rows, indices: sizes.append(len(indices)) or batch(rows, indices))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = {"rows": 16, "batch_size": 4, "micro_batch": 2}
        merge(centre=Auto(merges=[], scales=[1.0], rows=4), data=data, trainer={"max_steps": 1}).learn()
    assert max(sizes) == 2


class First(CentreChoice):
    """Takes the first of its merges, as no code of ours does."""

    contestants = (Wudi(),)


def test_another_way_to_choose_is_refused():
    with pytest.raises(ConfigError, match=r"centre: expected auto, or a merge.*found First"):
        merge_config({"base_model": "base", "models": [{"model": "one"}], "centre": First()})
