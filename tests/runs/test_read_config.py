"""What may be written, in YAML and in Python, and what it becomes."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.releases import readable
from torch.optim import SGD, Adam

from adamerge.calibration.esm import Esm
from adamerge.calibration.feat_cal import FeatCal
from adamerge.calibration.regmean import RegMean
from adamerge.merging.chunks import Chunks
from adamerge.objectives import Entropy
from adamerge.optim import FrankWolfe
from adamerge.optim.feasible_sets import Box, Simplex
from adamerge.runs.begun_run import check_run_dir
from adamerge.runs.model_config import ModelConfig
from adamerge.runs.read_config import merge_config, merge_layers, read_config
from adamerge.runs.read_yaml import read_yaml
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.save_config import resolved
from adamerge.transforms import Aswudi, Wudi
from adamerge.types import ConfigError

MINIMAL = {"base_model": "base", "models": [{"model": "mood"}, {"model": "topic"}]}
RUNS = Path(__file__).parents[1] / "fixtures" / "runs_0_1_0"


def of_yaml(text, notes=None):
    head = "base_model: base\nmodels: [{model: mood}, {model: topic}]\n"
    return merge_layers([read_yaml(head + text, "merge.yaml")], (notes if notes is not None else []).append, use="keep")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("objective: {class_path: Entropy, init_args: {temperature: 2}}", {"objective": Entropy(2.0)}),
        ("feasible: Box", {"feasible": Box()}),
        ("optimizer: {class_path: SGD, init_args: {lr: 0.1}}", {"optimizer": partial(SGD, lr=0.1)}),
        ("optimizer: FrankWolfe", {"optimizer": FrankWolfe()}),
        ("optimizer: {lr: 0.1}", {"optimizer.lr": 0.1}),
        ("chunks: {budget: 4}", {"chunks": Chunks(budget=4.0)}),
        ("centre: {scale: 0.5}", {"centre": RegMean(scale=0.5)}),
        ("centre: Wudi", {"centre": Wudi()}),
        ("centre: Esm", {"centre": Esm()}),
        ("centre: {class_path: FeatCal, init_args: {after: Aswudi, rows: 9}}", {"centre": FeatCal(Aswudi(), 9)}),
        ("centre: {class_path: FeatCal, init_args: {after: {class_path: Esm}}}", {"centre": FeatCal(after=Esm())}),
        ("run_dir: runs/007", {"run_dir": Path("runs/007")}),
        ("data.rows: 8", {"data": {"rows": 8}}),
        ("", {"models": [ModelConfig("mood"), ModelConfig("topic")]}),
    ],
)
def test_objects_of_python_are_what_yaml_makes_of_words(text, written):
    one, other = (
        yaml.safe_load(resolved(config)) for config in (of_yaml(text), merge_config(MINIMAL | written, use="keep"))
    )
    del one["written"], other["written"]
    assert one == other


def test_a_preset_keeps_the_options_of_the_class_that_is_named_again():
    config = of_yaml("method: frank_wolfe\nfeasible: {class_path: Simplex, init_args: {radius: 2}}")
    assert config.feasible == Simplex(2.0, includes_base=True)
    assert of_yaml("optimizer: Adam").optimizer.keywords == {"lr": 0.03}
    assert "lr" not in of_yaml("optimizer: SGD").optimizer.keywords


@pytest.mark.parametrize(
    ("text", "centre"),
    [
        ("", RegMean(inputs="merged")),
        ("centre: {rows: 64}", RegMean(rows=64, inputs="merged")),
        ("centre: {class_path: RegMean, init_args: {scale: 1.0}}", RegMean(scale=1.0, inputs="merged")),
        ("centre: regmean", "regmean"),
        ("centre: Wudi", Wudi()),
        ("centre: {class_path: Wudi, init_args: {ridge: 0.2}}", Wudi(ridge=0.2)),
        ("centre: null", None),
    ],
)
def test_options_over_those_of_a_preset_are_added_and_another_class_replaces_them(text, centre):
    assert of_yaml(f"method: regmean++\n{text}").centre == centre


def test_scalars_are_read_as_their_type_asks():
    config = of_yaml("optimizer: {lr: 1e-3}\nrun_dir: 007\ntrainer: {max_time: 10:00:00:00}\ninit: 0")
    assert config.optimizer.keywords["lr"] == 0.001
    assert config.run_dir == "007"
    assert config.trainer.max_time == "10:00:00:00"
    assert isinstance(config.init, float)


def test_a_dtype_is_its_name_and_no_other_object_of_torch_is_a_text():
    assert merge_config({"base_model": "base", "models": [{"model": "a"}], "dtype": torch.float64}).dtype == "float64"
    for other in (torch.device("cpu"), torch.ones(1)):
        with pytest.raises(ConfigError, match="run_dir: expected"):
            merge_config({"base_model": "base", "models": [{"model": "a"}], "run_dir": other})


def test_steps_of_a_configuration_are_what_runs():
    assert of_yaml("trainer: {max_steps: 7}").trainer.max_steps == 7
    assert merge_config({**MINIMAL, "trainer.max_steps": 7}).trainer.max_steps == 7


def test_anchors_and_merged_keys_are_read():
    config = of_yaml("data: &rows {rows: 8}\n")
    assert config.data.rows == 8
    text = "trainer:\n  <<: {max_steps: 3, precision: 64-true}\n  max_steps: 5"
    assert (of_yaml(text).trainer.max_steps, of_yaml(text).trainer.precision) == (5, "64-true")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("feasible: adamerge.feasible.Box", "adamerge.optim.feasible_sets.Box"),
        ("feasible: {class_path: adamerge.feasible.Simplex}", "adamerge.optim.feasible_sets.Simplex"),
        ("task_vectors: adamerge.transforms.singular.TaskSingularVectors", "adamerge.transforms.TaskSingularVectors"),
        ("centre: {class_path: adamerge.regmean.RegMean, init_args: {scale: 0.5}}", "adamerge.calibration.regmean."),
        ("init: {class_path: adamerge.closed_form.ClosedForm}", "adamerge.calibration.closed_form.ClosedForm"),
        ("chunks: {class_path: adamerge.chunks.Chunks, init_args: {budget: 2}}", "adamerge.merging.chunks.Chunks"),
        (
            "trainer: {class_path: adamerge.config.TrainerConfig, init_args: {max_steps: 1}}",
            "adamerge.runs.trainer",
        ),
        ("data: {class_path: adamerge.data.Batching, init_args: {rows: 8}}", "adamerge.data.settings.Batching"),
        ("watch: {class_path: adamerge.callbacks.Watching}", "adamerge.learning.keep_best.Watching"),
        ("parameters: {class_path: adamerge.experts.Split}", "adamerge.experts.name_patterns.Split"),
    ],
)
def test_class_paths_of_earlier_versions_lead_to_the_class_with_a_note(old, new):
    notes = []
    of_yaml(old, notes)
    assert len(notes) == 1
    assert notes[0].startswith("merge.yaml:3: ")
    assert f"is now {new}" in notes[0]


@pytest.mark.parametrize("path", ["torch.optim.SGD", "torch.optim.sgd.SGD", "SGD"])
def test_paths_that_still_lead_somewhere_need_no_note(path):
    notes = []
    assert of_yaml(f"optimizer: {path}", notes).optimizer.func is SGD
    assert not notes


def test_the_factor_of_an_objective_is_not_the_start_coefficient():
    with pytest.raises(ConfigError, match=r"models\.0\.weight: .*loss_weight.*parameters: {weight: …}"):
        merge_config({**MINIMAL, "models": [{"model": "mood", "weight": 0.5}]})
    config = merge_config({**MINIMAL, "models": [{"model": "mood", "loss_weight": 0.5}]})
    assert config.models[0].loss_weight == 0.5


def test_an_optimiser_that_yaml_cannot_name_is_refused_before_a_run():
    config = merge_config({**MINIMAL, "optimizer": lambda parameters: Adam(parameters)})
    with pytest.raises(ConfigError, match=r"optimizer: .*partial"):
        resolved(config)


@pytest.fixture
def old_runs(tmp_path):
    place = shutil.copytree(RUNS, tmp_path / "runs")
    for file in place.glob("*/config.yaml"):
        file.write_text(readable(file.read_text().replace("{root}", str(place))))
    return place


@pytest.mark.parametrize("name", ["finished", "interrupted", "regmean", "ties", "closed_form"])
def test_a_run_of_version_0_1_0_goes_on_with_its_own_configuration(old_runs, name):
    notes = []
    config = read_config(old_runs / name / "config.yaml", notes.append)
    check_run_dir(RunDirectory(old_runs / name), resolved(config), resume=True)
    assert len(notes) == 2
    assert "loss_weight" in notes[0]
    with pytest.raises(ConfigError, match="seed_everything"):
        check_run_dir(RunDirectory(old_runs / name), resolved(replace(config, seed_everything=7)), resume=True)


def test_numbers_of_numpy_are_numbers():
    settings = {"seed_everything": np.int64(3), "init": np.float32(0.5), "trainer.max_steps": np.int32(2)}
    config = merge_config({"base_model": "base", "models": [{"model": "a"}], **settings})
    found = (config.seed_everything, config.init, config.trainer.max_steps)
    assert [(type(one), one) for one in found] == [(int, 3), (float, 0.5), (int, 2)]
