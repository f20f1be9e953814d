"""Parameters that a class computes and no file holds, against what `from_pretrained` gives."""

import pytest
import torch
import transformers
from families.table import SEQ2SEQ, TOKENS
from safetensors.torch import load_file, save_file

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.made_by_class import made_by_class
from adamerge.experts.match_names import match
from adamerge.experts.own_class import own_module
from adamerge.types import IncompatibleExpertsError

POSITIONS = ["model.decoder.embed_positions.weight", "model.encoder.embed_positions.weight"]


def marian(folder):
    torch.manual_seed(0)
    model = transformers.MarianMTModel(transformers.MarianConfig(**SEQ2SEQ))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


def test_positions_of_marian_are_those_of_from_pretrained(tmp_path):
    folder = marian(tmp_path)
    assert not set(POSITIONS) & load_file(folder / "model.safetensors").keys()
    checkpoint = open_checkpoint(str(folder))
    found = match(checkpoint, own_module(checkpoint))
    assert not found.missing
    theirs = transformers.MarianMTModel.from_pretrained(folder)
    for name in POSITIONS:
        assert torch.equal(found.names[name].apply(None)[name], theirs.get_parameter(name))
    assert any("MarianMTModel computes them" in note and POSITIONS[0] in note for note in found.notes)


def test_positions_in_a_file_are_read_from_it(tmp_path):
    folder = marian(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, POSITIONS[1]: torch.ones(64, 16)}, folder / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    assert match(checkpoint, own_module(checkpoint)).names[POSITIONS[1]] == POSITIONS[1]


@pytest.mark.parametrize("name", ["model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1.bias"])
def test_what_training_changes_is_missing_whether_its_start_is_random_or_not(tmp_path, name):
    folder = marian(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    with pytest.raises(IncompatibleExpertsError, match=name):
        from_checkpoints(checkpoint, {"a": checkpoint})


class Silent(transformers.BertModel):
    """A class that tells nobody what a file lacks."""

    _keys_to_ignore_on_load_missing = (r"word_embeddings", r"LayerNorm\.bias")


def test_random_values_are_missing_though_transformers_does_not_report_them():
    with torch.device("meta"):
        module = Silent(transformers.BertConfig(**TOKENS))
    names = ["embeddings.word_embeddings.weight", "embeddings.LayerNorm.bias", "embeddings.LayerNorm.weight"]
    torch.manual_seed(3)
    found = made_by_class(module, names)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    assert list(found) == ["embeddings.LayerNorm.bias"]
    assert torch.equal(found["embeddings.LayerNorm.bias"].value, torch.zeros(16))
