"""`check` says what `fit` says before it learns, and how many rows there are and how long learning takes."""

import io
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image
from rich.console import Console
from support.adapter_pool import save_adapter
from support.families import build, configuration, near, save_family, save_speaking_family
from transformers import ViTImageProcessorPil

from adamerge.data.rows import TensorRows
from adamerge.experts.from_modules import from_modules
from adamerge.runs import time_needed
from adamerge.runs.build_model import open_experts
from adamerge.runs.check import check
from adamerge.runs.learn_merge import open_inputs
from adamerge.runs.load_rows import Data, load_data
from adamerge.runs.notes import notes_of
from adamerge.runs.read_config import merge_config
from adamerge.runs.time_needed import Speed, Work, time_lines, work_of
from adamerge.types import Fact

FEW = {"trainer": {"max_steps": 1, "accelerator": "cpu"}}
AUTO = {"method": "auto", "chunks": {"budget": 2}}
ANSWERS = {"data": {"batch_size": 4, "positions": "completion", "pseudo_answers": {"max_new_tokens": 3}}}
SETTINGS = {
    "auto": ({**AUTO}, "merges race at 1 times their published scale alone"),
    "its transforms": ({**AUTO}, "centre: Ties, TaskSingularVectors, DcMerge, Isotropic, Wudi, one tensor at a time"),
    "a transform": ({"task_vectors": "Wudi"}, "task vectors: Wudi, one tensor at a time; the largest stack, bert."),
    "a centre": ({"centre": "Isotropic"}, "centre: Isotropic, one tensor at a time"),
    "beside": ({"centre": "DcMerge", "beside": ["base", "Wudi"]}, "beside: Wudi: Wudi, one tensor at a time"),
    "Fisher": ({"method": "fisher"}, "task vectors: Fisher, one tensor at a time"),
    "RegMean": ({"centre": "regmean"}, "held out: 8 of 32 rows"),
    "a refitted merge": ({"centre": {"class_path": "FeatCal", "init_args": {"after": "DcMerge"}}}, "centre: DcMerge, "),
    "a variable": ({"run_dir": "$HOME/run"}, "so a folder of this very name is made"),
    "fewer rows": ({"data": {"batch_size": 25}}, "batch_size: 25: a step takes all rows to learn from, 24 of mood, 24"),
    "a start outside": ({"init": 3.0, "feasible": "Simplex"}, "is outside Simplex"),
}  # fmt: skip


def told(call, config):
    """What a function prints."""
    out = io.StringIO()
    found = call(config, Console(file=out, width=500))
    return found, out.getvalue().splitlines()


def noted(lines):
    """Lines that are notes, without figures of memory and time."""
    own = re.compile(r"note: |warning: |[\w ]+: .*(rows\.|one tensor at a time|ignored)")
    return [line for line in lines if own.match(line)]


def assert_same(config):
    """Both print the same notes on a configuration, in the same order; returns all output of `check`."""
    config = merge_config(config, lambda note: None)
    problems, checked = told(check, config)
    assert not problems
    _, fitted = told(lambda own, console: open_inputs(own, None, console), config)
    assert noted(checked) == noted(fitted)
    assert set(fitted) <= set(checked)
    return checked


@pytest.fixture(scope="module")
def opened(text_family):
    """The family's experts and rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(text_family)
        config = merge_config(configuration(**FEW), lambda note: None)
        experts = open_experts(config)
        yield experts, load_data(config, experts)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_said_before_learning(opened, text_family, monkeypatch, name):
    changes, word = SETTINGS[name]
    monkeypatch.chdir(text_family)
    learns = {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.01}}, "objective": "Entropy"}
    config = merge_config({**configuration(**learns), **FEW, **changes}, lambda note: None)
    experts, data = opened
    lines = notes_of(config, experts, experts.shared, data)
    assert sum(word in line for line in lines) == 1, lines
    assert all(isinstance(line, Fact) for line in lines if "one tensor at a time" in line)  # no warnings in Python


def test_check_says_what_fit_says(family):
    config = {key: value for key, value in configuration().items() if key != "optimizer"}
    config["models"] = config["models"][:2]
    lines = assert_same({**config, **FEW, **AUTO})
    assert any("one tensor at a time" in line for line in lines)


def save_pictures(folder):
    """Tiny classifiers of images, with processors that differ, and a folder of pictures of every size per task."""
    base = build("ViTForImageClassification", "vit", 0)
    experts = {task: near("ViTForImageClassification", "vit", base, seed) for seed, task in enumerate("ab", 1)}
    save_family(folder, base, experts)
    for seed, place in enumerate(("base", *experts)):
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / place)
        for number in range(0 if place == "base" else 12):
            file = folder / f"{place}_rows/class{number % 2}/{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((8 + number, 20), 50 + seed).save(file)
    return [{"model": task, "calibration": f"{task}_rows"} for task in experts]


def save_adapters(folder):
    """A tiny language model, and an adapter and rows per task."""
    save_speaking_family(folder, "LlamaForCausalLM", "llama")
    places = {
        task: save_adapter(None, folder / f"adapters/{task}", {}, seed) for seed, task in enumerate(("mood", "topic"))
    }
    return [{"model": str(place), "task": task, "calibration": f"{task}.jsonl"} for task, place in places.items()]


@pytest.mark.parametrize(
    ("save", "changes", "words"),
    [
        (save_pictures, {"task_vectors": "Wudi"}, ["task vectors: Wudi, one tensor at a time"]),
        (save_adapters, {"data": {"batch_size": 4}}, ["held out: "]),
        (
            save_adapters,
            {"method": "fisher", "trainer": {"accelerator": "cpu"}},
            ["task vectors: Fisher, one tensor at a"],
        ),
        (save_adapters, {"grouping": "component", "chunks": None}, ["coefficients: at most "]),
    ],
)
def test_check_says_what_fit_says_of_images_and_adapters(tmp_path, monkeypatch, save, changes, words):
    monkeypatch.chdir(tmp_path)
    config = {
        "base_model": "base",
        "models": save(tmp_path),
        "run_dir": "run",
        "method": "adamerging",
        **FEW,
        **changes,
    }
    lines = assert_same(config)
    for word in words:
        assert any(word in line for line in lines), (word, lines)


@pytest.mark.parametrize("name", ["answers", "streamed answers"])
def test_notes_of_language_models(tmp_path, monkeypatch, name):
    folder = save_speaking_family(tmp_path / "family", "LlamaForCausalLM", "llama")
    monkeypatch.chdir(folder)
    config = configuration(**FEW, **ANSWERS)
    for model in config["models"]:
        model["calibration"] = {"path": f"{model['model']}.jsonl"}
        if name == "answers":
            model["evaluation"] |= {"metric": "exact_match", "max_new_tokens": 2}
    if name == "streamed answers":
        config["memory"] = "streamed"
    lines = assert_same(config)
    assert any("while experts generate pseudo-answers" in line for line in lines) is (name == "streamed answers")
    assert any(line.startswith("time: learning ") for line in lines)
    assert not any("activations unknown" in line for line in lines)


def test_rows_and_time_are_said(opened, text_family, monkeypatch):
    monkeypatch.chdir(text_family)
    config, (experts, data) = merge_config(configuration(**FEW), lambda note: None), opened
    lines = [*time_needed.row_counts(config, data), *time_lines(config, experts, experts.shared, data)]
    assert "rows of mood: 24 to learn from, 8 held out, 16 to measure on" in lines
    (line,) = [line for line in lines if line.startswith("time: ")]
    assert re.match(
        r"time: learning .* \(1 steps of [\d.e-]+ to [\d.e-]+ s\), measuring .*, as this machine is now", line
    )
    idle = merge_config(configuration(method="average", trainer={}, optimizer=None), lambda note: None)
    assert time_lines(idle, experts, experts.shared, data)[0].startswith("time: measuring ")
    assert time_lines(idle, experts, experts.shared, replace(data, evaluation={})) == []


def test_seconds_of_a_step_are_those_of_its_products(text_family, monkeypatch):
    monkeypatch.chdir(text_family)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 32)

        def forward(self, x):
            return self.layer(x)

    experts = from_modules(Net(), {"a": Net(), "b": Net()})
    rows = {task: TensorRows({"x": torch.zeros(20, 64)}) for task in "ab"}
    work = work_of(experts, "a", rows["a"], torch.float32)
    assert work.operations == 2 * 64 * 32
    config = merge_config(
        configuration(**FEW, watch={"every": 1}, data={"batch_size": 6, "held_out": 0.25}), lambda note: None
    )
    only = Speed(operations=1000.0, bytes=1e30, calls=1e30)
    found = time_needed.seconds(
        config, experts, experts.shared, Data(rows, rows, {}, {}, ()), dict.fromkeys("ab", work), only
    )
    assert found.step == pytest.approx(3 * 2 * 6 * 4096 / 1000)
    called = time_needed.seconds(
        config, experts, experts.shared, Data(rows, rows, {}, {}, ()), dict.fromkeys("ab", work), Speed(1e30, 1e30, 1.0)
    )
    assert called.step > 3 * 2 * work.calls + 2 * len(experts.shared)  # every merge, and the loop, call functions too
    assert found.looks == pytest.approx(2 * 2 * 5 * 4096 / 1000)
    assert found.measuring == pytest.approx(len(time_needed.CANDIDATES) * 2 * 20 * 4096 / 1000)
    assert Work(0.0, 8).seconds(rows=9, size=4, speed=Speed(1.0, 1.0, 2.0)) == 3 * 4
