"""A preset means the same in YAML, on the command line and in Python, and over a saved configuration."""

from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

import pytest
import yaml

from adamerge import cli
from adamerge.data.settings import Augmentation
from adamerge.objectives import LogitAlignment
from adamerge.runs import config as config_module
from adamerge.runs.config import MergeConfig
from adamerge.runs.layers import DECIDED
from adamerge.runs.paths import anchored
from adamerge.runs.presets import COMMON, DEFAULT, PRESETS
from adamerge.runs.read_config import merge_config, merge_layers
from adamerge.runs.read_yaml import Document, read_yaml
from adamerge.runs.save_config import resolved, settings
from adamerge.transforms import Isotropic, Wudi
from adamerge.types import ConfigError

MINIMAL = {"base_model": "base", "models": [{"model": "mood", "calibration": "mood.jsonl"}, {"model": "topic"}]}


def values(config):
    """All settings as they are saved, without the record of what was written."""
    return anchored(settings(config))


def saved(config):
    return read_yaml(resolved(config), "run/config.yaml")


@pytest.mark.parametrize("method", PRESETS)
def test_yaml_command_line_and_python_resolve_alike(method, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    python = values(merge_config({**MINIMAL, "method": method}))
    for content, options in (({"method": method}, []), ({}, ["--method", method])):
        Path("merge.yaml").write_text(yaml.safe_dump(MINIMAL | content))
        assert cli.main(["fit", "--config", "merge.yaml", *options, "--print_config"]) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert values(merge_config(shown)) == python
    assert values(merge_layers([read_yaml(yaml.safe_dump(MINIMAL | {"method": method}), "merge.yaml")])) == python
    assert values(merge_layers([saved(merge_config({**MINIMAL, "method": method}))])) == python


OWN = {
    "data.rows": 8,
    "optimizer": "SGD",
    "chunks": {"class_path": "adamerge.merging.chunks.Chunks", "init_args": {"most": 32}},
    "objective": {"class_path": "Entropy", "init_args": {"temperature": 2.0}},
}


@cache
def fresh(method):
    return values(merge_config({**MINIMAL, **OWN, "method": method}, use="keep"))


@pytest.mark.parametrize("before", PRESETS)
def test_another_method_over_a_saved_configuration_is_a_fresh_run_of_it(before):
    former = saved(merge_config({**MINIMAL, **OWN, "method": before}, use="keep"))
    for method in PRESETS:
        assert values(merge_layers([former, Document({"method": method})], use="keep")) == fresh(method)


def test_what_was_written_survives_a_second_save():
    once = merge_config({**MINIMAL, "trainer.max_steps": 7, "method": "adamerging"})
    twice = merge_layers([saved(once), Document({"data": {"rows": 4}})])
    assert {"trainer.max_steps", "data.rows", "base_model"} <= set(twice.written)
    switched = merge_layers([saved(twice), Document({"method": "expert_merging"})])
    assert (switched.trainer.max_steps, switched.data.rows) == (7, 4)
    assert switched.lr_scheduler == "cosine"


def test_a_configuration_that_does_not_record_what_was_written_keeps_its_method():
    before = merge_config({**MINIMAL, "method": "expert_merging++"})  # the default when nothing was recorded
    former = {key: value for key, value in saved(before).content.items() if key != "written"}
    assert values(merge_layers([Document(former)])) == values(before)
    with pytest.raises(ConfigError, match=r"expected expert_merging\+\+, found ties.*change only its name"):
        merge_layers([Document(former), Document({"method": "ties"})])
    assert merge_layers([Document(former), Document({"method": "expert_merging++"})]).chunks == before.chunks


def test_every_preset_decides_the_same_keys():
    assert {frozenset(preset) for preset in PRESETS.values()} == {frozenset(COMMON)}


def test_what_methods_decide_has_no_other_default():
    required = {f.name for f in fields(MergeConfig) if f.default is MISSING and f.default_factory is MISSING}
    assert required == DECIDED | {"base_model", "models", "method"}
    with pytest.raises(TypeError, match="missing"):
        MergeConfig(base_model="base", models=[])


def test_the_default_is_what_it_says():
    config = merge_config(MINIMAL)
    assert config.method == DEFAULT
    assert type(config.objective).__name__ == "LogitAlignment"
    assert config.chunks.budget == 8
    assert (config.centre, config.watch.average, config.watch.guard) == ("auto", 0.9, True)
    assert config.beside == ["base", Isotropic(), Wudi()]
    assert (config.objective, config.data.augmentation) == (LogitAlignment(temperature="auto"), Augmentation())


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"method: expected one of .*, found 'adamergin'\. Did you mean adamerging\?"):
        merge_config({**MINIMAL, "method": "adamergin"})


def test_classes_of_presets_are_loaded_with_them():
    """A class is found by its name only where its module was imported."""
    loaded = vars(config_module)
    named = {settings["lr_scheduler"] for settings in PRESETS.values()} - {None, "cosine"}
    assert named
    assert all(loaded[name].__name__ == name for name in named)
