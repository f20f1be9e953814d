"""A first configuration is written, checks without a problem, and says what of mergekit's does not carry over."""

import pytest
import torch
import yaml

from adamerge import cli
from adamerge.merging.coefficients import load_coefficients
from adamerge.runs.from_mergekit import read_mergekit
from adamerge.types import ConfigError


def test_a_configuration_from_a_base_and_experts(family, main):
    (family / "merge.yaml").unlink()
    code, said, complaint = main("init", "base", "mood", "topic")
    assert (code, complaint) == (0, "")
    assert "next: adamerge check merge.yaml" in said
    written = yaml.safe_load((family / "merge.yaml").read_text(encoding="utf-8"))
    assert written["base_model"] == "base"
    assert [model["model"] for model in written["models"]] == ["mood", "topic"]
    assert main("check", "merge.yaml")[0] == 0
    code, _, complaint = main("init", "base", "mood")
    assert code == cli.BAD_INPUT
    assert "merge.yaml: exists already" in complaint


def test_what_is_no_folder_is_told_and_what_is_named_twice_refused(family, main):
    code, said, _ = main("init", "base", "mood", "org/topic", "--out", "new.yaml")
    assert code == 0
    assert said.splitlines()[-1] == "note: there is no such folder, so these are ids on the hub: org/topic"
    code, _, complaint = main("init", "base", "mood", "mood", "--out", "other.yaml")
    assert (code, complaint) == (cli.BAD_INPUT, "error: init: expected different models, found one twice: mood.\n")


def test_experts_of_one_name_get_names_that_tell_them_apart(family, main):
    """Training often leaves the last folder with a name such as final, or checkpoint-500."""
    for task in ("mood", "topic"):
        (family / "trained" / task).mkdir(parents=True)
        (family / task).rename(family / "trained" / task / "final")
    code, _, complaint = main("init", "base", "trained/mood/final", "trained/topic/final/", "--out", "new.yaml")
    assert (code, complaint) == (0, "")
    models = yaml.safe_load((family / "new.yaml").read_text(encoding="utf-8"))["models"]
    assert [model["task"] for model in models] == ["mood-final", "topic-final"]
    assert main("check", "new.yaml")[0] == 0
    code, _, complaint = main("init", "base", "trained/mood/final", "trained/mood/final/", "--out", "other.yaml")
    assert code == cli.BAD_INPUT
    assert "found one twice: trained/mood/final, trained/mood/final/" in complaint


@pytest.mark.parametrize("words", [[], ["base"]])
def test_what_is_missing_is_named(family, main, words):
    code, _, complaint = main("init", *words, "--out", "new.yaml")
    assert code == cli.BAD_INPUT
    assert "init: expected " in complaint
    assert "adamerge init BASE EXPERT" in complaint
    assert not (family / "new.yaml").exists()


LINEAR = """
models:
  - {model: mood, parameters: {weight: 0.25}}
  - {model: topic, parameters: {weight: 0.5}}
merge_method: linear
dtype: float16
tokenizer_source: base
chat_template: chatml
"""


def test_linear_of_mergekit_keeps_models_and_weights(family, main):
    (family / "kit.yaml").write_text(LINEAR, encoding="utf-8")
    code, _, complaint = main("init", "--from_mergekit", "kit.yaml", "--out", "new.yaml")
    assert code == cli.BAD_INPUT
    assert "names no base_model" in complaint
    code, said, complaint = main("init", "base", "--from_mergekit", "kit.yaml", "--out", "new.yaml")
    assert (code, complaint) == (0, "")
    assert "note: not carried over from kit.yaml: chat_template: chatml" in said
    assert main("fit", "new.yaml", "--run_dir", "run")[0] == 0
    found = load_coefficients("run/coefficients.safetensors")
    assert torch.allclose(found.coefficients, torch.tensor([[1 / 3, 2 / 3]]))
    assert yaml.safe_load((family / "run/config.yaml").read_text(encoding="utf-8"))["out_dtype"] == "float16"


@pytest.mark.parametrize(
    ("text", "method", "models", "dropped"),
    [
        (
            "{merge_method: task_arithmetic, base_model: b, dtype: float32, parameters: {lambda: 0.5},"
            " models: [{model: b}, {model: x, parameters: {weight: [{filter: attn, value: 1}, {value: 0.5}]}}]}",
            "task_arithmetic",
            {"x": [{"filter": "attn", "value": 1}, {"value": 0.5}]},
            ["parameters: lambda: 0.5"],
        ),
        (
            "{merge_method: ties, base_model: b, models: [{model: x, parameters: {weight: 1, density: 0.5}}]}",
            "ties",
            {"x": None},
            ["merge_method: ties", "x: density: 0.5"],
        ),
        (
            "{merge_method: nuslerp, base_model: b, parameters: {t: 0.5},"
            " slices: [{sources: [{model: b, layer_range: [0, 4]}, {model: x, layer_range: [0, 4]}]}]}",
            None,
            {"x": None},
            ["merge_method: nuslerp", "parameters: t: 0.5", "b: layer_range: [0, 4]; here all", "x: layer_range"],
        ),
        (
            "{merge_method: linear, base_model: b, parameters: {normalize: false}, chat_template: chatml,"
            " models: [{model: {model: {path: o/x, revision: v1}}}, {model: m+o/lora}]}",
            "average",
            {"o/x@v1": None, "m+o/lora": None},
            ["parameters: normalize: False", "chat_template: chatml"],
        ),
        (
            "{merge_method: linear, base_model: b, models: [{model: b, parameters: {weight: 2}},"
            " {model: x, parameters: {weight: 1}}, {model: y, parameters: {weight: 1}}]}",
            "task_arithmetic",
            {"x": 0.25, "y": 0.25},
            [],
        ),
        (
            "{merge_method: linear, base_model: b, parameters: {weight: 1}, models: [{model: x}]}",
            "task_arithmetic",
            {"x": 0.5},
            [],
        ),
        (
            "{merge_method: linear, base_model: b, models: [{model: b, parameters: {weight: [0, 1]}},"
            " {model: x, parameters: {weight: 1}}]}",
            "average",
            {"x": 1},
            ["b: weight: [0, 1]: linear averages the base in"],
        ),
        (
            "{merge_method: task_arithmetic, base_model: b, tokenizer: {source: base, tokens: {}},"
            " slices: [{sources: [{model: x, layer_range: [0, 2], parameters: {weight: 1}}, {model: y}],"
            " parameters: {weight: 0.5}}]}",
            "task_arithmetic",
            {"x": 1, "y": 0.5},
            ["x: layer_range: [0, 2]; here all layers", "tokenizer: tokens: {}"],
        ),
        (
            "{merge_method: task_arithmetic, base_model: b, models: [{model: x, residual: 1}, {model: x}]}",
            "task_arithmetic",
            {"x": None},
            ["x: residual: 1", "x: it is listed twice"],
        ),
    ],
)
def test_what_carries_over_and_what_does_not(tmp_path, text, method, models, dropped):
    (tmp_path / "kit.yaml").write_text(text, encoding="utf-8")
    found = read_mergekit(tmp_path / "kit.yaml")
    assert (found.base_model, found.method) == ("b", method)
    assert {name.word: weight for name, weight in found.models.items()} == models
    assert len(found.dropped) == len(dropped)
    assert all(line.startswith(start) for line, start in zip(found.dropped, dropped, strict=True))


@pytest.mark.parametrize(
    ("words", "tokenizer"),
    [
        ("tokenizer_source: union", "union"),
        ("tokenizer_source: base", None),
        ("tokenizer_source: 'model:o/x'", "o/x"),
        ("tokenizer: {source: union}", "union"),
        ("tokenizer: {source: {model: {path: o/x}}}", "o/x"),
        ("dtype: float32", None),
    ],
)
def test_the_tokenizer_carries_over(tmp_path, monkeypatch, main, words, tokenizer):
    monkeypatch.chdir(tmp_path)
    text = f"{{merge_method: task_arithmetic, base_model: b, models: [{{model: x}}], {words}}}"
    (tmp_path / "kit.yaml").write_text(text, encoding="utf-8")
    assert main("init", "--from_mergekit", "kit.yaml", "--out", "new.yaml")[0] == 0
    assert yaml.safe_load((tmp_path / "new.yaml").read_text(encoding="utf-8")).get("tokenizer") == tokenizer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [{model: a}]", "has no merge_method"),
        ("{merge_method: passthrough, slices: [{sources: []}, {sources: []}]}", "found 2 slices"),
        ("{merge_method: linear}", "expected a list under models"),
        ("{merge_method: linear, models: [a]}", "expected a model in each entry"),
    ],
)
def test_what_is_no_configuration_of_mergekit(tmp_path, text, words):
    (tmp_path / "kit.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_mergekit(tmp_path / "kit.yaml")
