"""Arguments of a wrong kind are refused in one clear sentence, each with its name."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam

from adamerge import (
    LBFGSB,
    Box,
    ConfigError,
    Entropy,
    Expert,
    FrankWolfe,
    HiddenAlignment,
    LogitAlignment,
    Merge,
    ProjectedGradient,
    Simplex,
    SoftFrankWolfe,
    load_coefficients,
)
from adamerge.objectives import Sum
from adamerge.transforms import Dare, Doge, Fisher, Lines, Ties, Wudi

LINE = nn.Linear(1, 1)
NO_MODEL = (None, 3, 2.5, True, [], {}, b"base", "", {"w": 1.0}, {1: torch.ones(1)}, nn.Linear, 1j, torch.ones(2))


def one(expert="news"):
    return [expert]


@pytest.mark.parametrize("model", NO_MODEL, ids=repr)
@pytest.mark.parametrize(
    "use",
    [
        lambda model: Merge(model, one()),
        Expert,
        lambda model: Expert(model, task="news"),
        lambda model: Merge("base", {"news": model}),
        lambda model: Merge("base", [{"model": model}]),
        lambda model: Merge("base", [{"model": model, "task": "news"}]),
    ],
    ids=["base_model", "Expert", "named", "by task", "in a list", "with keys"],
)
def test_what_is_no_model_is_refused(model, use):
    with pytest.raises(ConfigError, match=r"expected (a path, a hub id, a module|a state dict)|missing: model"):
        use(model)


@pytest.mark.parametrize(
    "model", [m for m in NO_MODEL if m not in ("", {}) and not isinstance(m, dict | torch.Tensor)], ids=repr
)
def test_what_is_no_item_is_refused(model):
    with pytest.raises(ConfigError, match=r"models: item 1: expected an Expert, a path"):
        Merge("base", ["news", model])


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("one", r"found a single one, 'one' \(str\). Write a list"),
        (Path("one"), "found a single one"),
        (Expert("one"), "found a single one"),
        (LINE, "found a single one"),
        (b"one", "found a single one"),
        (torch.ones(2), "found a single one"),
        ({"one", "two"}, "found a set, which has no order"),
        (None, r"found None \(NoneType\)"),
        (3, r"found 3 \(int\)"),
        (Expert, "found the class Expert"),
        ({1: "one"}, r"expected names of tasks as keys, found 1 \(int\)"),
        ({None: LINE}, "expected names of tasks as keys"),
        ({"one": {"calibration": "one.jsonl"}}, "missing: model"),
        ({"one": {"model": LINE, "columns": 3}}, "columns"),
        ([LINE], "Linear in memory has no name"),
        ([LINE.state_dict()], "Dict in memory has no name"),
        ([], "at least one expert"),
        ({}, "at least one expert"),
        ([["one"]], r"item 0: expected an Expert.* found \['one'\] \(list\)"),
        ([("one", LINE)], "item 0: expected an Expert"),
    ],
)
def test_what_is_no_list_of_experts_is_refused(models, words):
    with pytest.raises(ConfigError, match=words):
        Merge(LINE, models, method="average").learn()


def test_keys_may_be_given_by_task(family):
    rows = {"path": "mood.jsonl", "text": "text"}
    by_task = {"feeling": {"model": "mood", "calibration": rows}, "topic": {"model": Path("topic")}}
    merge = Merge("base", by_task, method="average")
    assert merge.config.names == ("feeling", "topic")
    assert merge.learn().experts == ("feeling", "topic")


def test_two_models_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="expected a different name per expert, found a twice"):
        Merge(LINE, [Expert(nn.Linear(1, 1), task="a"), Expert(nn.Linear(1, 1), task="a")], method="average").learn()


def test_every_wrong_keyword_of_an_expert_is_refused_with_the_nearest():
    with pytest.raises(ConfigError) as error:
        Expert("one", calibraton="one.jsonl", los_weight=1, weight=1)
    assert error.value.problems == (
        "Expert: calibraton: there is no such keyword. Did you mean calibration?",
        "Expert: los_weight: there is no such keyword. Did you mean loss_weight?",
        "Expert: weight: there is no such keyword. Write loss_weight for the factor of its objective, or parameters: "
        "{weight: …} for the coefficient at the start.",
    )


@pytest.mark.parametrize("task", ["", 3, ["a"], b"a"])
def test_what_is_no_name_is_refused(task):
    with pytest.raises(ConfigError, match="Expert: expected the name of a task"):
        Expert("one", task=task)


def test_dtypes_of_torch_are_their_names():
    config = Merge("base", ["news"], dtype=torch.float64, out_dtype=torch.bfloat16).config
    assert (config.dtype, config.out_dtype) == ("float64", "bfloat16")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"processor": "bert-base-uncased"}, "processor: expected a tokenizer or image processor, found"),
        ({"processor": 3}, "processor: expected a tokenizer"),
        ({"method": 3}, "method: expected one of"),
        ({"method": None}, ""),
        ({"trainer": 5}, "trainer: expected"),
        ({"trainer": "fast"}, "trainer: expected"),
        ({"optimizer": 3}, "optimizer: expected"),
        ({"optimizer": Adam([nn.Parameter(torch.zeros(1))])}, "optimizer: expected .*, found Adam"),
        ({"objective": 3}, "objective: expected"),
        ({"objective": "entropi"}, "objective: expected"),
        ({"feasible": 1.0}, "feasible: expected"),
        ({"init": [1]}, "init: expected"),
        ({"data": [1]}, "data: expected"),
        ({"chunks": 3}, "chunks: expected"),
        ({"task_vectors": 3}, "task_vectors: expected"),
        ({"centre": 3}, "centre: expected"),
        ({"seed_everything": "x"}, "seed_everything: expected"),
        ({"run_dir": 3}, "run_dir: expected"),
        ({"dtype": torch.float16}, "dtype: expected"),
        ({"nonsense": 3}, "nonsense"),
    ],
)
def test_settings_of_another_kind_are_refused(settings, words):
    if settings == {"method": None}:
        Merge("base", one(), **settings)
        return
    with pytest.raises(ConfigError, match=words):
        Merge("base", one(), **settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Entropy(temperature="1"),
        lambda: Entropy(per_log_classes=1),
        lambda: LogitAlignment(form="l1"),
        lambda: LogitAlignment(temperature=None),
        lambda: LogitAlignment(tail=True),
        lambda: HiddenAlignment(chosen="all"),
        lambda: HiddenAlignment(chosen=[1.5]),
        lambda: HiddenAlignment(form=3),
        lambda: Sum(Entropy()),
        lambda: Sum([Entropy], None),
        lambda: Sum([Entropy()], ["1"]),
        lambda: Box("0", 1),
        lambda: Box(None),
        lambda: Box(torch.zeros(2), 1),
        lambda: Simplex(radius="2"),
        lambda: Simplex(includes_base="yes"),
        lambda: FrankWolfe(step_rule="long"),
        lambda: FrankWolfe(variant=None),
        lambda: FrankWolfe(tolerance="0"),
        lambda: SoftFrankWolfe(top_k=1.5),
        lambda: SoftFrankWolfe(per="row"),
        lambda: ProjectedGradient(lr="1"),
        lambda: ProjectedGradient(step_rule="wolfe"),
        lambda: LBFGSB(history=2.5),
        lambda: LBFGSB(loss_tolerance="0"),
        lambda: Ties(density="0.2"),
        lambda: Doge(exclude="embed"),
        lambda: Doge(shared_rank=1.5),
        lambda: Wudi(solver="exact"),
        lambda: Dare(seed=None),
        lambda: Fisher(labels="all"),
        lambda: Lines(alpha="1"),
    ],
)
def test_options_of_another_type_are_refused(make):
    with pytest.raises(ConfigError, match=r"^[A-Za-z]+\.[a-z_]+: expected .*, found .* \([A-Za-z]+\)\.$"):
        make()


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    assert Box(np.float32(0), np.int64(1)).upper == 1
    assert SoftFrankWolfe(top_k=np.int64(2)).top_k == 2
    assert Entropy(temperature=2).temperature == 2


@pytest.fixture
def result():
    base = nn.Linear(1, 1)
    expert = nn.Linear(1, 1)
    expert.load_state_dict({name: 1.1 * tensor for name, tensor in base.state_dict().items()})
    return Merge(base, {"a": expert}, method="average").learn()


def test_arguments_of_a_result_are_checked(result, tmp_path):
    for folder in (None, 3, "", ["x"]):
        with pytest.raises(ConfigError, match="folder: expected a path, found"):
            result.export(folder)
        with pytest.raises(ConfigError, match="file: expected a path, found"):
            result.save_coefficients(folder)
        with pytest.raises(ConfigError, match="expected a path of coefficients, found"):
            load_coefficients(folder)
    for dtype in ("bf16", 16, torch.int8, torch):
        with pytest.raises(ConfigError, match="dtype: expected one of float32"):
            result.export(tmp_path / "out", dtype=dtype)
        with pytest.raises(ConfigError, match="dtype: expected one of float32"):
            result.module("a", dtype=dtype)
    for task in (None, 3, ["a"], "b"):
        with pytest.raises(ConfigError, match=r"expected the name of a task \(a\), found"):
            result.module(task)
    assert result.module("a", dtype="bfloat16").weight.dtype == torch.bfloat16


def test_arguments_of_learn_and_fit_are_checked(family):
    merge = Merge("base", ["mood"], method="average")
    with pytest.raises(ConfigError, match=r"console: expected a rich.console.Console or None, found True"):
        merge.learn(console=True)
    for run_dir in (None, 3, ""):
        with pytest.raises(ConfigError, match="run_dir: expected a path"):
            merge.fit(run_dir)


def test_home_is_known_everywhere(family, monkeypatch, main):
    """`~` in paths of models, rows, results, run directories and files of the command line."""
    monkeypatch.setenv("HOME", str(family))
    keys = {"method": "adamerging", "trainer": {"max_steps": 1, "accelerator": "cpu"}}
    expert = Expert("~/mood", calibration="~/mood.jsonl", evaluation={"path": "~/mood_test.jsonl"})
    assert expert.name == "mood"
    merge = Merge(Path("~/base"), [expert], **keys)
    result = merge.learn()
    result.export("~/exported")
    result.save_coefficients("~/table.safetensors")
    assert torch.equal(load_coefficients("~/table.safetensors").coefficients, result.coefficients)
    merge.fit("~/run")
    assert main("evaluate", "~/run")[0] == 0
    assert main("export", "~/run", "~/again")[0] == 0
    assert main("check", "--config", "~/merge.yaml", "--run_dir", "~/new")[0] == 0
    made = {"exported", "table.safetensors", "run", "again"}
    assert made <= set(os.listdir(family))
    assert not Path("~").exists()
