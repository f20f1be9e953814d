"""Ids that a model has no embedding for, and numbers that are not finite, are refused before anything is learned."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from adamerge.calibration.probe import Model, settle
from adamerge.data.rows import TensorRows
from adamerge.data.tokens import check_ids, check_segments, decoder_start
from adamerge.types import ConfigError


class Embedding(nn.Module):
    """A model of four tokens and one segment."""

    def __init__(self):
        super().__init__()
        self.tokens, self.token_type_embeddings = nn.Embedding(4, 2), nn.Embedding(1, 2)

    def get_input_embeddings(self):
        return self.tokens


TABLE = SimpleNamespace(error=ConfigError)


def expert(start=0):
    kind = SimpleNamespace(language_model=True, encoder_decoder=True, decoder_start=start, architecture="Odd")
    return SimpleNamespace(own_module=Embedding(), kind=kind, source="odd")


def test_the_pad_token_of_a_language_model_needs_an_embedding():
    tokenizer = SimpleNamespace(pad_token_id=4, pad_token="[PAD]")
    with pytest.raises(ConfigError, match=r"\[PAD\]', token 4, but Odd has 4 embeddings\. Set another pad_token"):
        check_ids(TABLE, expert(), tokenizer, [[0, 1]])
    tokenizer.pad_token_id = 3
    check_ids(TABLE, expert(), tokenizer, [[0, 1]])


def test_segments_need_an_embedding():
    check_segments(TABLE, expert(), [[0, 0]])
    with pytest.raises(ConfigError, match=r"row 2: .*segment id 1 .* Odd has 1 \(type_vocab_size\)"):
        check_segments(TABLE, expert(), [[0, 0], [0, 1]])


@pytest.mark.parametrize("start", [None, -1, 4, True, "0", [0]])
def test_a_decoder_needs_a_start_token(start):
    with pytest.raises(ConfigError, match=r"decoder_start_token_id in config\.json of odd.*Set it"):
        decoder_start(TABLE, expert(start))
    assert decoder_start(TABLE, expert(3)) == 3


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_answers_that_are_not_finite_are_a_problem(number):
    rows = TensorRows({"x": torch.tensor([[1.0], [2.0], [number]])})
    asked = Model("Odd", lambda inputs: inputs["x"], lambda inputs, how: None, lambda: [])
    found = settle(asked, rows).problem
    assert found.startswith("Odd answers row 3 by numbers that are not finite. Expected finite")
    assert not settle(asked, TensorRows({"x": torch.tensor([[1.0], [-torch.inf]])})).problem


def test_a_model_that_cannot_be_run_is_a_problem():
    def broken(inputs):
        raise IndexError("index out of range in self")

    asked = Model("Odd", broken, broken, lambda: [])
    problem = settle(asked, TensorRows({"x": torch.ones(2, 1)})).problem
    assert problem.startswith("Odd cannot be run on a row alone (IndexError: index out of range in self). Correct what")


@pytest.mark.probes
@pytest.mark.parametrize("command", ["check", "fit"])
def test_a_configuration_that_overflows_is_refused_by_both(family, main, command):
    file = family / "mood/config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "layer_norm_eps": -1e9}))
    code, said, error = main(command, "--config", "merge.yaml", "--run_dir", "run")
    assert code == 2
    assert "mood: BertForSequenceClassification answers row" in said + error
    assert not (family / "run").exists()
