"""Settings of a tokenizer that none can have are refused by key; what can be read is read."""

import json

import pytest
from support.families import save_tokenizer
from transformers import BertConfig

from adamerge.data.processors import saved_processor
from adamerge.data.text import Text
from adamerge.types import ConfigError


def loaded(folder, settings):
    save_tokenizer(folder)
    BertConfig().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return saved_processor(folder, None, Text())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_max_length": 3.5}, "a whole number of tokens as model_max_length in tokenizer_config.json, found 3.5"),
        ({"model_max_length": "64"}, "a whole number of tokens as model_max_length"),
        ({"tokenizer_class": "BertConfig"}, "it names BertConfig, which is none"),
    ],
)
def test_settings_that_no_tokenizer_can_have(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        loaded(tmp_path, settings)


@pytest.mark.parametrize(("limit", "read"), [(64.0, 64), (-1, 10**9), (1e30, 1e30)])
def test_limits_that_are_read(tmp_path, limit, read):
    found = loaded(tmp_path, {"model_max_length": limit}).model_max_length
    assert (found, type(found)) == (read, type(read))
