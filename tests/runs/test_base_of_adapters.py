"""A configuration without base_model takes the one that all of its adapters name, and says so."""

import json
from pathlib import Path

import pytest

from adamerge import ConfigError
from adamerge.runs.model_config import ModelConfig
from adamerge.runs.read_config import merge_config


@pytest.fixture
def adapters(tmp_path):
    """Folders of adapters, by the base that they name."""

    def make(**bases):
        for name, base in bases.items():
            (tmp_path / name).mkdir()
            options = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"]}
            named = {} if base is None else {"base_model_name_or_path": base}
            (tmp_path / name / "adapter_config.json").write_text(json.dumps(options | named))
        return [str(tmp_path / name) for name in bases]

    return make


def test_the_base_that_all_adapters_name_is_taken_and_noted(adapters):
    first, second, third = adapters(a="org/base", b="org/base", c="org/base")
    notes = []
    config = merge_config({"models": [{"model": Path(first)}, {"model": second}, ModelConfig(third)]}, notes.append)
    assert config.base_model == "org/base"
    assert "base_model" in config.written  # another method over the saved configuration keeps it
    assert [note for note in notes if note.startswith("base_model: org/base, which the adapters name")]
    assert merge_config({"base_model": "own", "models": [{"model": first}]}).base_model == "own"


@pytest.mark.parametrize("bases", [{"a": "one", "b": "other"}, {"a": "one", "b": None}, {"a": None}])
def test_otherwise_it_is_missing(adapters, bases):
    with pytest.raises(ConfigError, match="missing: base_model"):
        merge_config({"models": [{"model": place} for place in adapters(**bases)]})


def test_experts_of_other_kinds_name_no_base(adapters, tmp_path):
    (first,) = adapters(a="one")
    for other in ({"model": str(tmp_path)}, {"model": "org/expert"}, {"model": first, "adapter": first}):
        with pytest.raises(ConfigError, match="missing: base_model"):
            merge_config({"models": [{"model": first}, other]})
