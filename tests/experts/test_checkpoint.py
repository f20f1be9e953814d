"""Checkpoints on disk: names are matched as transformers matches them, or rejected."""

import json
import re

import pytest
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file
from support.families import TEXT, build, configuration
from support.mistakes import pickle_weights
from torch import nn
from transformers.initialization import TORCH_INIT_FUNCTIONS

from adamerge.experts import checkpoint
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.match_names import match, tied_names
from adamerge.experts.model_kind import classes_by_token, kind_of
from adamerge.experts.skeleton import parameters_on_meta, skeleton
from adamerge.runs.build_model import open_experts
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError

PAIRS = [  # saved as, loaded as
    ("BertModel", "BertModel", "bert", {}),
    ("BertModel", "BertForSequenceClassification", "bert", {}),  # the prefix is added, a head is missing
    ("BertForSequenceClassification", "BertModel", "bert", {}),  # the prefix is taken off, a head is too many
    ("BertForMaskedLM", "BertForSequenceClassification", "bert", {}),
    ("ViTForImageClassification", "ViTModel", "vit", {}),
    ("ViTModel", "ViTForImageClassification", "vit", {}),
    ("CLIPModel", "CLIPVisionModel", "clip", {}),
    ("CLIPForImageClassification", "CLIPForImageClassification", "clip", {}),
    ("LlamaModel", "LlamaForCausalLM", "llama", {"tie_word_embeddings": True}),
    ("LlamaForCausalLM", "LlamaForCausalLM", "llama", {"tie_word_embeddings": True}),
    ("LlamaForCausalLM", "LlamaForSequenceClassification", "llama", {"tie_word_embeddings": False}),
    ("T5ForConditionalGeneration", "T5ForConditionalGeneration", "t5", {}),
]


@pytest.mark.parametrize(("saved", "loaded", "family", "more"), PAIRS)
def test_names_are_matched_as_transformers_does(tmp_path, saved, loaded, family, more):
    build(saved, family, 1, **more).save_pretrained(tmp_path)
    cls = getattr(transformers, loaded)
    config = cls.config_class.from_pretrained(tmp_path)
    theirs, info = cls.from_pretrained(tmp_path, config=config, output_loading_info=True)
    opened = open_checkpoint(str(tmp_path))
    found = match(opened, skeleton(config, loaded))
    expected = dict(theirs.named_parameters())
    parameters = {name: disk for name, disk in found.names.items() if name in expected}
    assert parameters.keys() | set(found.missing) == expected.keys()
    assert set(found.missing) == set(info["missing_keys"]) & expected.keys()
    assert set(found.unexpected) == set(info["unexpected_keys"])
    for name, disk in parameters.items():
        assert torch.equal(opened.tensors[disk], expected[name]), name


def test_old_names_of_layer_norms_are_matched(tmp_path):
    build("BertModel", "bert", 1).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in tensors.items()
    }
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    opened = open_checkpoint(str(tmp_path))
    found = match(opened, skeleton(opened.config, "BertModel"))
    assert not found.missing
    assert not found.unexpected
    assert found.names["embeddings.LayerNorm.weight"] == "embeddings.LayerNorm.gamma"


def test_a_tied_parameter_is_found_under_either_name(tmp_path):
    build("LlamaForCausalLM", "llama", 1, tie_word_embeddings=True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    opened = open_checkpoint(str(tmp_path))
    module = skeleton(opened.config, "LlamaForCausalLM")
    assert ("model.embed_tokens.weight", "lm_head.weight") in tied_names(module)
    assert match(opened, module).names["model.embed_tokens.weight"] == "lm_head.weight"


@pytest.mark.parametrize(
    ("architecture", "family"), [("BertForMaskedLM", "bert"), ("LlamaForCausalLM", "llama"), ("CLIPModel", "clip")]
)
def test_a_skeleton_has_allocated_buffers_and_meta_parameters(architecture, family):
    real = build(architecture, family, 0)
    empty = skeleton(real.config, architecture)
    assert not empty.training
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert tied_names(empty) == tied_names(real)
    buffers = dict(empty.named_buffers())
    assert buffers.keys() == dict(real.named_buffers()).keys()
    for name, buffer in real.named_buffers():
        assert torch.equal(buffers[name], buffer), name


def test_buffers_that_are_made_of_parameters_are_allocated_too():
    """I-BERT makes buffers with `zeros_like` of its weights."""
    module = skeleton(transformers.IBertConfig(**TEXT), "IBertForSequenceClassification")
    names = [name for name, _ in module.named_buffers() if name.endswith("weight_integer")]
    assert names
    assert not any(module.get_buffer(name).is_meta or module.get_buffer(name).any() for name in names)
    kind = kind_of(module)
    assert not classes_by_token(module, kind, {"input_ids": torch.ones(1, 4, dtype=torch.long)}, "mood")


def test_modules_are_built_normally_after_a_failure():
    with pytest.raises(TypeError), parameters_on_meta():
        nn.Linear("two", 2)
    with parameters_on_meta():
        assert nn.Linear(2, 2).weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("pickled", [False, True])
def test_shards_are_one_checkpoint(tmp_path, pickled):
    build("BertForSequenceClassification", "bert", 1).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    name = "pytorch_model.bin" if pickled else "model.safetensors"
    files = {key: f"{number % 3}.{name}" for number, key in enumerate(tensors)}
    for file in set(files.values()):
        part = {key: tensor for key, tensor in tensors.items() if files[key] == file}
        torch.save(part, tmp_path / file) if pickled else save_file(part, tmp_path / file)
    (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": files}))
    opened = open_checkpoint(str(tmp_path), allow_pickle=pickled).tensors
    assert opened.headers.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(opened[key], tensor)
        assert opened.headers[key] == (tensor.shape, tensor.dtype)


def test_a_hub_id_with_a_revision_is_opened(tmp_path, monkeypatch):
    build("BertModel", "bert", 1).save_pretrained(tmp_path)
    requested = []

    def download(name, revision, allow_patterns):
        requested.append((name, revision, "*.bin" in allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    assert open_checkpoint("someone/bert@v1.2").architecture == "BertModel"
    open_checkpoint("someone/bert", allow_pickle=True)
    assert requested == [("someone/bert", "v1.2", False), ("someone/bert", None, True)]


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_either_kind_are_read_with_permission(tmp_path, legacy):
    model = build("BertModel", "bert", 1)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    opened = open_checkpoint(str(tmp_path), allow_pickle=True).tensors
    for name, parameter in model.named_parameters():
        assert torch.equal(opened[name], parameter)


def test_a_pickle_on_the_hub_that_was_not_downloaded_is_rejected(tmp_path, monkeypatch):
    build("BertModel", "bert", 1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(checkpoint, "snapshot_download", lambda name, revision, allow_patterns: str(tmp_path))
    monkeypatch.setattr(checkpoint, "list_repo_files", lambda name, revision: ["config.json", "pytorch_model.bin"])
    with pytest.raises(ConfigError, match=r"someone/bert@v1: pytorch_model.bin: .* Set allow_pickle: true"):
        open_checkpoint("someone/bert@v1")

    def offline(name, revision):
        raise OSError("offline")

    monkeypatch.setattr(checkpoint, "list_repo_files", offline)
    with pytest.raises(ConfigError, match=r"expected model.safetensors or model.safetensors.index.json"):
        open_checkpoint("someone/bert@v1")


def test_an_unknown_hub_id_is_rejected():
    with pytest.raises(ConfigError, match="someone/nothing: no folder of this name, and the Hugging Face hub"):
        open_checkpoint("someone/nothing")


def test_an_architecture_missing_in_transformers_is_rejected():
    config = build("BertModel", "bert", 0).config
    with pytest.raises(ConfigError, match=re.escape("BertForNothing, which transformers")):
        skeleton(config, "BertForNothing")


def test_a_skeleton_draws_no_weights(monkeypatch):
    drawn, normal = [], TORCH_INIT_FUNCTIONS["normal_"]
    counted = lambda tensor, **more: drawn.append(1) or normal(tensor, **more)  # noqa: E731
    monkeypatch.setitem(TORCH_INIT_FUNCTIONS, "normal_", counted)
    skeleton(transformers.BertConfig(**TEXT), "BertModel")
    assert not drawn
    transformers.BertModel(transformers.BertConfig(**TEXT))
    assert drawn


def test_pickled_weights_are_read_with_permission(family):
    expected = load_file(family / "mood/model.safetensors")
    pickle_weights(family / "mood")
    weights = open_experts(merge_config(configuration(allow_pickle=True))).weights["mood"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("error", [HfHubHTTPError.__bases__[0]("peer closed connection"), OSError("")])
def test_a_download_that_the_network_ends_is_a_bad_input(monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    with pytest.raises(ConfigError, match=f"a/b: no folder of this name.*{str(error) or 'OSError'}"):
        checkpoint.locate("a/b", allow_pickle=False)
