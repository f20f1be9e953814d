"""Wrong values in config.json: refused with the file, the key and what was expected, where transformers fails too."""

import pytest
import transformers
from support.families import configuration
from support.mistakes import edit_json

from adamerge.experts.config_file import read_config_file
from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError, IncompatibleExpertsError

TOKEN = "a token's index, a list of them, or null, found"


@pytest.mark.parametrize("value", [7, [None], [["A"]], {"a": 1}, False])
def test_a_class_is_named_by_a_text(family, value):
    edit_json(family / "mood/config.json", architectures=value)
    with pytest.raises(
        ConfigError, match=r"mood/config\.json: architectures: expected a list with the name of a class"
    ):
        read_config_file(family / "mood", trust_remote_code=False)


@pytest.mark.parametrize("value", ["abc", 0.5, True, [[1]], [1, "a"], {"a": 1}, 2**70])
@pytest.mark.parametrize("key", ["decoder_start_token_id", "pad_token_id", "eos_token_id"])
def test_a_token_is_an_index(family, key, value):
    edit_json(family / "mood/config.json", **{key: value})
    with pytest.raises(ConfigError) as refused:
        read_config_file(family / "mood", trust_remote_code=False)
    assert str(refused.value).startswith(f"{family}/mood/config.json: {key}: expected {TOKEN}")


def test_tokens_of_every_configuration_of_transformers_are_accepted(tmp_path):
    for settings in ({"eos_token_id": [1, 2]}, {"pad_token_id": -1}, {"bos_token_id": None}, {"eos_token_id": 10**6}):
        transformers.LlamaConfig(**settings).save_pretrained(tmp_path)
        found = read_config_file(tmp_path, trust_remote_code=False)
        assert found.to_dict().items() >= settings.items()


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"hidden_size": 16, "num_attention_heads": 7}, "hidden_size, num_attention_heads"),
        ({"layer_types": False}, "layer_types"),
        ({"id2label": ""}, "id2label"),
        ({"quantization_config": 3}, "quantization_config"),
        ({"model_type": -1}, "model_type"),
    ],
)
def test_the_keys_that_transformers_stumbles_over_are_named(tmp_path, settings, keys):
    """Without each of them it reads the file, or raises something else."""
    transformers.LlamaConfig().save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", **settings)
    with pytest.raises(ConfigError) as refused:
        read_config_file(tmp_path, trust_remote_code=False)
    named, said = str(refused.value).removeprefix(f"{tmp_path}/config.json: ").split(": expected the configuration")
    assert sorted(named.split(", ")) == keys.split(", ")
    assert type(refused.value.__cause__).__name__ in said


def test_what_transformers_logs_of_a_key_is_not_shown_for_every_trial(tmp_path, capfd):
    """It writes the configuration out whenever it refuses a key, and the key is found by trying."""
    transformers.ViTConfig().save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", sub_configs=["a"])
    with pytest.raises(ConfigError, match=r"config\.json: sub_configs: expected"):
        read_config_file(tmp_path, trust_remote_code=False)
    assert not "".join(capfd.readouterr())


def loaded_and_run(folder):
    """A model of transformers' own, on its own inputs."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    return model(**model.dummy_inputs)


@pytest.mark.parametrize(
    ("folder", "key", "value", "words"),
    [
        ("mood", "use_cache", 3, "expected bool, got int (value: 3)"),
        ("mood", "num_attention_heads", 3, "16) is not a multiple of the number of attention heads (3)"),
        (
            "base",
            "classifier_dropout",
            7,
            "classifier_dropout: expected the configuration of a BertForSequence",
        ),
        ("base", "type_vocab_size", 7, "with type_vocab_size: 2 in the place of 7 all tensors fit"),
        ("mood", "hidden_size", 8, "with hidden_size: 16 in the place of 8 all tensors fit"),
        ("mood", "id2label", {"0": "a"}, "with 3 entries in id2label in the place of 1 all tensors fit"),
        ("mood", "chunk_size_feed_forward", {}, "If chunk_size_feed_forward in mood/config.json is not that of tra"),
        ("mood", "hidden_act", "xyz", "mood/config.json: hidden_act: expected the configuration of a BertForSeq"),
    ],
)
def test_the_file_and_what_is_wrong_in_it_are_named(family, folder, key, value, words):
    """Transformers cannot use such a file either."""
    edit_json(family / folder / "config.json", **{key: value})
    config = merge_config(configuration())
    with pytest.raises((ConfigError, IncompatibleExpertsError)) as refused:
        load_data(config, open_experts(config))
    assert f"{folder}/config.json" in str(refused.value)
    assert words in str(refused.value)
    with pytest.raises(Exception, match=r"."):
        loaded_and_run(family / folder)
