"""What is valid but perhaps not intended is reported, in check, in fit and in Python."""

import warnings

import pytest
import torch
from support.families import configuration, write

from adamerge import Expert, Merge
from adamerge.runs.fit import learning_of
from adamerge.runs.learning_settings import learning_notes, row_notes
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError

NAMES = ["emb.weight", "h.0.attn.weight", "h.0.mlp.weight", "h.1.attn.weight", "h.1.mlp.weight", "norm.weight"]


def notes(*weights, **settings):
    models = [{"model": f"m{i}", "parameters": {"weight": weight}} for i, weight in enumerate(weights)]
    config = {"base_model": "base", "models": models, "method": "task_arithmetic", "grouping": "tensor", **settings}
    return learning_notes(merge_config(config), NAMES)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ([{"filter": "atn", "value": 0.1}, {"value": 0.5}], "filter 'atn' is part of no merged parameter's name"),
        ([{"filter": "classifier", "value": 0.1}], "filter 'classifier' is part of no merged parameter's name"),
        ([{"filter": "h.2.", "value": [0, 1]}], "filter 'h.2.' is part of no merged parameter's name"),
        ([{"value": 0.5}, {"filter": "attn", "value": 0.1}], "filter 'attn' matches is matched by an earlier entry"),
        ([{"filter": "*", "value": 0.5}, {"value": 0.1}], "the entry without filter matches is matched"),
        ([{"filter": "h.0", "value": 0.5}, {"filter": "h.0.mlp", "value": 0.1}], "filter 'h.0.mlp' matches is matched"),
    ],
)
def test_a_filter_that_gives_no_start_is_said(weight, words):
    others = "gradient", "list of weights", "match no filter"
    said = [note for note in notes(weight, 0.3) if not any(words in note for words in others)]
    assert len(said) == 1
    assert said[0].startswith("note: models: m0: parameters.weight: ")
    assert words in said[0]
    assert "is not used" in said[0]


@pytest.mark.parametrize(
    "weight",
    [0.5, None, [0.1, 0.2], [{"filter": "attn", "value": 0.1}, {"filter": "mlp", "value": 0.2}, {"value": 0.3}]],
)
def test_filters_that_apply_need_no_note(weight):
    assert not [note for note in notes(weight, 0.3) if "filter" in note]


@pytest.mark.parametrize(
    ("optimizer", "written", "kept"),
    [("Adam", {}, 0.9), ("LBFGSB", {}, 0.0), ("SoftFrankWolfe", {"every": 5}, 0.0), ("Adam", {"average": 0.5}, 0.5)],
)
def test_an_optimiser_that_searches_its_steps_has_no_mean_over_them_and_it_is_said(optimizer, written, kept):
    settings = {"lr_scheduler": None, "feasible": "Box" if optimizer == "LBFGSB" else "Simplex"}
    settings |= {"data": {"batch_size": None}, "watch": written, "optimizer": optimizer, "chunks": None}
    config = {"base_model": "base", "models": [{"model": "m0"}, {"model": "m1"}], "method": "auto", **settings}
    said = [note for note in learning_notes(merge_config(config), NAMES) if "watch.average" in note]
    assert learning_of(merge_config(config), progress_bar=False).watching.average == kept
    name = f"note: watch.average: 0 instead of the method's 0.9, because {optimizer} searches its steps"
    assert said == ([] if kept else [name])
    if not kept:
        with pytest.raises(ConfigError, match=r"watch\.average: does not go with optimizer: expected 0 with"):
            learning_of(merge_config({**config, "watch": {"average": 0.9}}), progress_bar=False)


SETS = [
    ("Box", (0.5, 1.5), 6, "0.5, 1.5"),
    ("Box", (-0.5, 0.5), 6, "-0.5, 0.5"),
    ("Box", (0.5, [{"filter": "mlp", "value": 7}]), 2, "0.5, 7"),
    ("Simplex", (0.5, 0.6), 6, "0.5, 0.6"),
    ("Simplex", (0.5, 0.5), 0, ""),
    ("Box", (0.0, 1.0), 0, ""),
    ("Unbounded", (-5, 9), 0, ""),
]


@pytest.mark.parametrize(("feasible", "weights", "groups", "values"), SETS)
def test_a_start_outside_the_feasible_set_is_said(feasible, weights, groups, values):
    said = [note for note in notes(*weights, feasible=feasible) if "outside" in note]
    assert len(said) == (groups > 0)
    for note in said:
        assert f"parameters.weight of the models: the start of {groups} of 6 groups is outside {feasible}" in note
        assert note.endswith(f": {values})")


def test_a_start_of_all_experts_outside_the_feasible_set_is_said():
    assert notes(None, None, feasible="Box", init=1.5) == [
        "note: the start, 1.5, is outside Box(lower=0.0, upper=1.0); its nearest point is used"
    ]


def weighted(**changes):
    config = configuration(feasible="Box", **changes)
    config["models"][0]["parameters"] = {"weight": [{"filter": "nowhere", "value": 0.1}, {"value": 1.5}]}
    return config


@pytest.mark.parametrize("command", [("check",), ("fit", "--trainer.max_steps", "0", "--run_dir", "run")])
def test_check_and_fit_say_it(family, main, command):
    code, said, _ = main(*command, "--config", write(weighted()))
    assert code == 0
    assert "note: models: mood: parameters.weight: filter 'nowhere' is part of no merged parameter's name" in said
    assert "groups is outside Box(lower=0.0, upper=1.0); its nearest point is used" in said


def test_warnings_of_python_have_no_prefix():
    def layer(value):
        module = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(module.weight, value)
        return module

    weight = [{"filter": "nowhere", "value": 0.1}, {"value": 1.5}]
    experts = [Expert(layer(1), task="a", parameters={"weight": weight}), Expert(layer(2), task="b")]
    with warnings.catch_warnings(record=True, action="always") as caught:
        Merge(layer(0), experts, method="task_arithmetic", feasible="Box").learn()
    said = [str(warning.message) for warning in caught]
    assert any(line.startswith("models: a: parameters.weight: filter 'nowhere' is part of no") for line in said)
    assert any(line.startswith("parameters.weight of the models: the start of ") for line in said)
    assert not [line for line in said if line.startswith(("note:", "warning:"))]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "LBFGS", "feasible": "Box", "data.batch_size": None}, "torch's LBFGS on Box"),
        ({"optimizer": "ProjectedGradient", "trainer.precision": "bf16-mixed"}, "projected gradient with bf16"),
        ({"chunks": {"budget": 8}, "grouping": "task"}, "expected grouping: tensor, found task"),
        ({"method": "ties", "centre": "Isotropic"}, "so Ties would add nothing to the centre"),
        ({"task_vectors": "Isotropic", "init": "closed_form"}, "Isotropic makes one task vector of all experts"),
        ({"trainer.max_steps": -1}, "trainer.max_steps: expected 0 (nothing is learned) or more, found -1"),
        ({"chunks": {"budget": 8}, "grouping": "task", "optimizer": None}, "optimizer: expected an optimiser"),
        ({"optimizer.lr": -1}, "optimizer.init_args.lr: expected a value that Adam accepts, found -1"),
        ({"optimizer": None}, "optimizer: expected an optimiser"),
        ({"trainer.accelerator": "gpuu"}, "gpuu"),
        (
            {"models": [{"model": "a"}], "beside": [], "feasible": "Simplex"},
            "A simplex over 1 expert is a single point",
        ),
        ({"optimizer": "SoftFrankWolfe", "feasible": "Unbounded"}, "there is no vertex to select; choose a simplex"),
        ({"optimizer": "LBFGSB", "feasible": "Simplex", "data.batch_size": None}, "bounds on single coefficients only"),
        ({"optimizer": "LBFGSB"}, "L-BFGS-B with another batch at every step is not defined"),
        ({"optimizer": "ProjectedGradient", "trainer.gradient_clip_val": 1.0}, "projected gradient with gradient clip"),
        ({"optimizer": "FrankWolfe", "feasible": "Simplex"}, "Frank-Wolfe (hard) with a learning-rate scheduler"),
        (
            {"method": "frank_wolfe", "optimizer": {"class_path": "SoftFrankWolfe", "init_args": {"top_k": 5}}},
            "top_k=5 exceeds the pool of 3 vertices",
        ),
    ],
)
def test_choices_that_do_not_go_together(changes, words):
    minimal = {"base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    with pytest.raises(ConfigError) as error:
        learning_of(merge_config(minimal | changes), progress_bar=False)
    assert words in str(error.value)


def test_cosine_selection_needs_plain_steps():
    options = {"class_path": "FrankWolfe", "init_args": {"selection": "cosine"}}
    with pytest.raises(ConfigError, match="selection by cosine is the published code's"):
        merge_config({"base_model": "base", "models": [{"model": "a"}], "optimizer": options})


@pytest.mark.parametrize(("rows", "budget", "said"), [(1, "auto", 1), (40, "auto", 0), (1, 8, 0)])
def test_a_budget_that_cannot_grow_is_said(rows, budget, said):
    config = {"base_model": "base", "models": [{"model": "m0"}], "method": "auto", "chunks": {"budget": budget}}
    found = [note for note in row_notes(merge_config(config), {"m0": range(rows)}) if "chunks.budget" in note]
    assert len(found) == said
    assert all("8 instead of auto" in note for note in found)


@pytest.mark.parametrize(("steps", "said"), [(39, 1), (40, 0)])
def test_too_few_steps_for_a_second_stage_that_grows_are_said(steps, said):
    found = notes(0.3, method="auto", chunks={"budget": "auto"}, trainer={"max_steps": steps})
    assert len([note for note in found if "no chunk gets its own coefficient" in note]) == said


def test_machines_that_nothing_names_are_said(monkeypatch):
    for name in ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID"):
        monkeypatch.delenv(name, raising=False)
    several = {"trainer": {"num_nodes": 2, "max_steps": 1, "accelerator": "cpu"}, "optimizer": "Adam"}
    assert sum("waits for the others" in note for note in notes(0.5, 0.5, **several)) == 1
    monkeypatch.setenv("MASTER_ADDR", "first")
    assert not any("waits for the others" in note for note in notes(0.5, 0.5, **several))
