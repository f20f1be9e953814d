"""Errors and notes on a configuration written as text."""

import pytest

from adamerge.runs.read_config import merge_layers
from adamerge.runs.read_yaml import read_yaml
from adamerge.types import ConfigError

HEAD = "base_model: base\nmodels:\n  - {model: mood}\n  - {model: topic}\n"
LINE = HEAD.count("\n") + 1
"""A base and two models, and the first line after them."""


def complaint(text, name="merge.yaml"):
    with pytest.raises(ConfigError) as error:
        merge_layers([read_yaml(text, name)])
    return str(error.value)
