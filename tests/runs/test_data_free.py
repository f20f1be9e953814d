"""Merges that are finished without learning: one word each, no calibration rows where none are needed."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from support.families import TASKS, configuration, listing, save_rows, write
from support.processes import Strike, run

from adamerge.calibration.regmean import RegMean
from adamerge.cli import parse_file
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.learning.learn import Calibration, learn
from adamerge.learning.settings import Learning
from adamerge.merging.coefficients import load_coefficients
from adamerge.merging.merged_model import task_vectors
from adamerge.results.candidates import CANDIDATES
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.load_rows import load_data
from adamerge.runs.presets import PRESETS

FREE = [m for m, preset in PRESETS.items() if preset.get("trainer.max_steps") == 0 and preset["centre"] is None]
SCALES = {"average": 1 / 2, "task_arithmetic": 0.3, "dare": 0.3, "magnitude": 0.3, "consensus": 0.3, "pcb": 1.2}


def without_rows(**changes):
    """merge.yaml without calibration rows, and without what says how to learn."""
    config = configuration(**changes)
    for key in ("optimizer", "data", "watch"):
        del config[key]
    config["models"] = [{key: m[key] for key in ("model", "evaluation")} for m in config["models"]]
    config["trainer"] = {"accelerator": "cpu"}
    return config


@pytest.mark.parametrize("method", FREE)
def test_the_start_is_the_sum_of_transformed_task_vectors(family, method, tmp_path):
    file = write(configuration(method=method, trainer={"accelerator": "cpu"}) | {"optimizer": None})
    config = parse_file(Path(file))
    experts = open_experts(config)
    names = inspect_weights(experts).changed
    rows = load_data(config, experts).calibration
    model = build_model(config, experts, names, tmp_path / "kept", rows)
    assert config.start == pytest.approx(SCALES.get(method, 1.0))
    learned = learn(
        model, config.objective, Calibration({}, {}), Learning(None, init=config.start, trainer={"max_steps": 0})
    )
    assert (learned.coefficients == torch.tensor(config.start)).all()
    merged = model.vectors.combine(learned.coefficients, model.grouping)
    plain = task_vectors(experts, names, resident=False)
    if method != "fisher":  # whose information is another test's
        apply = config.task_vectors.plan(plain.stacks) if config.task_vectors else lambda name, stack: stack
        expected = {n: experts.base[n] + config.start * apply(n, plain.stack(n)).sum(0) for n in names}
        for name, found in merged.items():
            torch.testing.assert_close(found, expected[name])
    assert not (tmp_path / "information").exists()


def test_a_whole_job_without_calibration_rows(family, main):
    file = write(without_rows(method="doge"))
    code, said, complaint = main("check", "--config", file)
    assert (code, complaint) == (0, "")
    code, said, complaint = main("fit", "--config", file, "--run_dir", "run")
    assert (code, complaint) == (0, "")
    assert "task vectors: Doge, one tensor at a time; the largest stack, bert." in said
    assert "16 of 23 parameters stay as they are: bert.embeddings.word_embeddings.weight, " in said
    assert "bert.encoder.layer.*.attention.self.query.bias" in said
    assert "step" not in said
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["learned"]["mean"] is not None
    assert (metrics["agreement"], metrics["history"], metrics["best_step"]) == ({}, [], 0)
    assert json.loads(Path("run/recipe.json").read_text())["data"]["mood"].keys() == {"evaluation"}
    assert sorted(f.name for f in Path("run/task_vectors").glob("*.safetensors")) == [
        f"{task}.safetensors" for task in TASKS
    ]
    first = load_file("run/merged/model.safetensors")
    assert main("export", "run", "again")[0] == 0
    second = load_file("again/model.safetensors")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert main("evaluate", "run")[0] == 0
    assert json.loads(Path("run/metrics.json").read_text()) == metrics
    assert main("fit", "--config", "run/config.yaml", "--ckpt_path", "last")[0] == 0
    assert json.loads(Path("run/metrics.json").read_text()) == metrics


def test_killed_and_resumed(text_family, tmp_path):
    strike = Strike("adamerge.storage.kept.write_text")
    file = {**yaml.safe_load((text_family / "merge.yaml").read_text()), "method": "fisher", "optimizer": None}
    file["trainer"] = {"accelerator": "cpu"}
    file["models"] = [{"model": task, "calibration": f"{task}.jsonl"} for task in ("mood", "topic")]
    place = shutil.copytree(text_family, tmp_path / "family")
    (place / "free.yaml").write_text(yaml.safe_dump(file))
    log = tmp_path / "log.txt"
    assert run(["fit", "--config", "free.yaml", "--run_dir", "whole"], place, log) == 0, log.read_text()
    assert run(["fit", "--config", "free.yaml", "--run_dir", "run"], place, log, strike) == -strike.number
    again = ["fit", "--config", "run/config.yaml", "--ckpt_path", "last"]
    assert run(again, place, log) == 0, log.read_text()
    for part in ("task_vectors/mood.safetensors", "coefficients.safetensors"):
        assert (place / "run" / part).read_bytes() == (place / "whole" / part).read_bytes()


def test_agreement_is_reported_where_there_are_rows(family, main):
    config = without_rows(method="ties")
    config["models"][1]["calibration"] = "topic.jsonl"
    assert main("fit", "--config", write(config), "--run_dir", "run")[0] == 0
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["agreement"]["learned"].keys() == {"topic", "mean"}
    assert set(metrics["learned"]) == {*TASKS, "mean"}


def test_doge_with_adamerging(family, main):
    config = configuration(task_vectors="Doge", feasible="Unbounded", watch={"monitor": "last"})
    code, _, complaint = main("fit", "--config", write(config), "--run_dir", "run")
    assert (code, complaint) == (0, "")
    learned = load_coefficients(Path("run/coefficients.safetensors"))
    assert learned.coefficients.shape == (23, 2)
    stored = load_file("run/task_vectors/mood.safetensors")
    moved = [bool(stored[name].any()) for name in learned.grouping.groups]
    assert ((learned.coefficients != 1).any(1) == torch.tensor(moved)).all()


@pytest.mark.parametrize(
    ("vectors", "start"),
    [(None, 0.3), ("Ties", 0.3), ("Doge", 1.0), ({"class_path": "Doge", "init_args": {"balanced": False}}, 0.3)],
)
def test_learning_starts_at_the_published_scale(family, vectors, start):
    assert parse_file(Path(write(configuration(task_vectors=vectors)))).start == start


@pytest.mark.parametrize("transform", ["Wudi", "Doge", "Fisher"])
def test_a_finished_merge_is_the_centre(family, main, transform):
    config = configuration() if transform == "Fisher" else without_rows()
    config |= {"optimizer": None, "trainer": {"accelerator": "cpu"}}
    finished = {**config, "method": transform.lower()}
    centred = {**config, "method": "task_arithmetic", "centre": transform}
    merged: list[dict[str, torch.Tensor]] = []
    for name, said in (("finished", finished), ("centred", centred)):
        code, told, complaint = main("fit", "--config", write(said), "--run_dir", name)
        assert (code, complaint) == (0, "")
        merged.append(load_file(f"{name}/merged/model.safetensors"))
    assert f"centre: {transform}, one tensor at a time" in told
    for name, tensor in merged[0].items():
        torch.testing.assert_close(merged[1][name], tensor, rtol=1e-4, atol=1e-6)
    learned = load_coefficients(Path("centred/coefficients.safetensors"))
    assert not learned.coefficients.any()
    assert learned.experts == TASKS
    assert not Path("centred/information").exists()
    Path("centred/centre.safetensors").unlink()
    code, _, complaint = main("export", "centred", "again")
    assert (code, "is gone. Resume the run" in complaint) == ((2, True) if transform == "Fisher" else (0, False))


def test_a_centre_of_something_else_is_not_taken(family, tmp_path):
    told = io.StringIO()
    console = Console(file=told, width=500)

    def build(**changes):
        config = parse_file(Path(write(configuration(**changes))))
        experts = open_experts(config)
        return build_model(config, experts, inspect_weights(experts).changed, tmp_path, console=console)

    first = build(centre="Isotropic").vectors
    expected = {name: first.centre(name).clone() for name in first.shapes}
    again = build(centre="Isotropic").vectors
    assert all(torch.equal(again.centre(name), centre) for name, centre in expected.items())
    kept = tmp_path / "centre.safetensors"
    os.truncate(kept, kept.stat().st_size - 8)  # damaged, so computed again
    mended = build(centre="Isotropic").vectors
    assert all(torch.equal(mended.centre(name), centre) for name, centre in expected.items())
    other = build(centre="Wudi").vectors
    assert f"{kept}: is damaged; computed again" in told.getvalue()
    assert f"{kept}: is made of other settings; computed again" in told.getvalue()
    kept.unlink()
    fresh = build(centre="Wudi").vectors
    assert all(torch.equal(other.centre(name), fresh.centre(name)) for name in other.shapes)


def test_options_of_regmean_need_no_name_whatever_the_preset(family, main):
    config = configuration(centre={"scale": 0.8})
    assert parse_file(Path(write(config))).centre == RegMean(scale=0.8)
    file = write(configuration())
    assert main("check", "--config", file, "--method", "expert_merging++", "--centre", "{scale: 0.8}")[0] == 0


def test_learning_over_a_finished_merge_starts_with_it(family, main):
    config = configuration(centre="Wudi", feasible="Unbounded", watch={"monitor": "last"})
    assert main("fit", "--config", write(config), "--run_dir", "run")[0] == 0
    assert json.loads(Path("run/metrics.json").read_text())["history"][0]["c_max"] == 0
    assert load_coefficients(Path("run/coefficients.safetensors")).coefficients.any()


@pytest.mark.parametrize(
    ("settings", "towards"),
    [({}, 0.3), ({"centre": "Wudi"}, 0.0), ({"centre": "regmean"}, 0.0), ({"task_vectors": "Doge"}, 1.0)],
)
def test_the_closed_form_is_pulled_to_where_learning_would_start(family, settings, towards):
    for init in ("closed_form", {"ridge": 2.0}):
        assert parse_file(Path(write(configuration(init=init, **settings)))).start.towards == towards
    given = configuration(init={"towards": 0.7}, **settings)
    assert parse_file(Path(write(given))).start.towards == 0.7


def test_a_merge_of_one_update_is_learned_on_too(family, main):
    config = configuration(task_vectors="Wudi", feasible="Unbounded")
    assert main("fit", "--config", write(config), "--run_dir", "run")[0] == 0
    assert load_coefficients(Path("run/coefficients.safetensors")).experts == ("merged",)


BAD = {
    "task_vectors.init_args.eta: expected a number above 0": ("Doge", {"eta": 0}),
    "eta: expected a number above 0, found -1.0": ("Doge", {"eta": -1.0}),
    "eta: expected a number above 0, found nan": ("Doge", {"eta": float("nan")}),
    "shared_rank: expected 1 or more, found 0": ("Doge", {"shared_rank": 0}),
    "density: expected a share in (0, 1], found 0.0": ("Doge", {"density": 0.0}),
    "density: expected a share in (0, 1], found 1.5": ("Ties", {"density": 1.5}),
    "density: expected a share in (0, 1], found -0.1": ("Magnitude", {"density": -0.1}),
    "drop: expected a probability in [0, 1), found 1.0": ("Dare", {"drop": 1.0}),
    "ratio: expected a share in (0, 1]": ("Pcb", {"ratio": 0.0}),
    "ridge: expected a number above 0": ("Wudi", {"ridge": 0.0}),
    "threshold: expected a number above 0": ("Consensus", {"threshold": 0.0}),
    "agreement: expected at most the number of experts, 2": ("Consensus", {"agreement": 3}),
    "alpha: expected 0 or more": ("Lines", {"alpha": -1.0}),
    "rows: expected 1 or more": ("Fisher", {"rows": 0}),
    "there is no such key. Did you mean eta?": ("Doge", {"etta": 1.0}),
    "there is no class Dodge;": ("Dodge", {}),
}


@pytest.mark.parametrize("words", BAD)
def test_options_out_of_range_are_refused_before_anything_is_written(family, main, words):
    name, options = BAD[words]
    vectors = {"class_path": name, "init_args": options}
    method = "fisher" if name == "Fisher" else "doge"
    config = configuration(trainer={"accelerator": "cpu"}) if name == "Fisher" else without_rows()
    config |= {"method": method, "task_vectors": vectors, "optimizer": None}
    file = write(config)
    before = listing(family)
    code, _, complaint = main("fit", "--config", file, "--run_dir", "run")
    assert code == 2
    assert words.removeprefix("task_vectors: ") in complaint
    assert len(complaint.splitlines()) <= 3
    assert listing(family) == before
    code, said, complaint = main("check", "--config", file)
    assert code == 2
    assert words.removeprefix("task_vectors: ") in said + complaint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "adamerging"}, "mood: expected calibration rows (key calibration) of at least one task"),
        ({"method": "fisher"}, "mood, topic: expected calibration rows"),
        (
            {"method": "doge", "trainer": {"max_steps": 5}},
            "optimizer: expected an optimiser, for example Adam, found null",
        ),
        (
            {"method": "ties", "trainer": {"max_steps": 5}, "optimizer": "Adam"},
            "remove trainer.max_steps, because ties learns nothing by itself.",
        ),
        ({"method": "dogee"}, "Did you mean doge?"),
        ({"method": "doge", "init": "averag"}, "Did you mean average?"),
    ],
)
def test_what_cannot_be_without_rows(family, main, changes, words):
    before = listing(family)
    file = write(without_rows() | changes)
    code, _, complaint = main("fit", "--config", file, "--run_dir", "run")
    assert code == 2
    assert words in complaint
    (family / file).unlink()
    assert listing(family) == before


def test_a_start_is_projected_and_rows_are_not_read_in_vain(family, main):
    save_rows(Path("mood.jsonl"), 0, 0)  # would be refused if it were read
    config = without_rows(method="task_arithmetic")
    del config["models"][1]["evaluation"]
    feasible = {"class_path": "Simplex", "init_args": {"radius": 0.6}}
    code, _, complaint = main("fit", "--config", write(config | {"feasible": feasible}), "--run_dir", "run")
    assert (code, complaint) == (0, "")
    found = load_coefficients(Path("run/coefficients.safetensors")).coefficients
    torch.testing.assert_close(found, torch.full((1, 2), 0.3))
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert all(metrics[key].keys() == {"mood", "mean"} for key in CANDIDATES)
