"""Chats in ShareGPT's form, and with other names of roles, are read as the same chats with usual roles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.families import CHATS, build, save_tokenizer
from transformers import AutoTokenizer

from adamerge.data.encode import encode
from adamerge.data.records import Listed
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.sharegpt import ROLES, as_messages
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError, Fact


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Encodes rows of chats for a language model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, end="[SEP]")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATS
    expert = Expert("mood", build("LlamaForCausalLM", "llama", 0), InMemory({}), ())

    def call(columns, answer=None, **source):
        table = Table(Listed(columns), DataSource("rows", **source), "mood")
        return encode(table, expert, tokenizer, Encoding(answer_tokens=answer))

    return call


def share(*said):
    return [{"from": speaker, "value": text} for speaker, text in said]


def roles(*said):
    return [{"role": ROLES[speaker], "content": text} for speaker, text in said]


SAID = [(("human", "good film"), ("gpt", "bad book")), (("system", "calm"), ("human", "loud"), ("gpt", "song plot"))]


@pytest.mark.parametrize("column", ["conversations", "messages"])
def test_rows_are_those_of_the_chats_with_roles(read, column):
    found = read({column: [share(*said) for said in SAID]})
    expected = read({"messages": [roles(*said) for said in SAID]})
    for row in range(2):
        assert (
            found.rows.batch([row]).inputs["input_ids"].tolist()
            == expected.rows.batch([row]).inputs["input_ids"].tolist()
        )
    said = next(note for note in found.notes if "ShareGPT" in note)
    assert "2 of 2 chats" in said
    assert isinstance(said, Fact)
    assert not any("ShareGPT" in note for note in expected.notes)


def test_speakers_of_other_collections_are_known():
    said = [share(("Human", "a"), ("ChatGPT", "b")), share(("prompter", "a"), ("bot", "b"))]
    assert all(as_messages(chat) == roles(("human", "a"), ("gpt", "b")) for chat in said)


def test_an_unknown_speaker_is_refused_by_row(read):
    rows = [share(*SAID[0]), share(("human", "good"), ("observation", "bad"))]
    with pytest.raises(
        ConfigError, match=r"row 2: message 2 of 'conversations' is from 'observation', but the speakers are"
    ):
        read({"conversations": rows})


def test_texts_are_preferred_to_conversations(read):
    found = read({"text": ["good film"], "conversations": [share(*SAID[0])]})
    assert found.rows.batch([0]).inputs["input_ids"].shape == (1, 4)


OTHER = [("Human", "gpt"), ("USER", "Assistant"), (" user ", "bot"), ("prompter", "AI"), ("user", "model")]


@pytest.mark.parametrize("words", OTHER)
def test_other_names_of_roles_are_those_of_speakers_and_counted(read, words):
    named = [[{"role": word, "content": text} for word, text in zip(words, ("loud", "good"), strict=True)]]
    usual = [roles(("human", "calm"), ("gpt", "bad"))]
    found, expected = read({"messages": named + usual}), read({"messages": [roles(("human", "loud"), ("gpt", "good"))]})
    assert torch.equal(found.rows.batch([0]).inputs["input_ids"], expected.rows.batch([0]).inputs["input_ids"])
    said = ", ".join(f"{w!r} is read as {r}" for w, r in zip(words, ("user", "assistant"), strict=True) if w != r)
    assert f"mood: rows: 1 of 2 chats name roles by other words: {said}." in found.notes
    assert read({"messages": named}, answer=4).rows.shown == [roles(("human", "loud"))]  # without the old answer


def test_forms_are_read_message_by_message_as_datasets_fills_keys(read):
    mixed = [{"from": "human", "value": "loud", "role": None, "content": None}, *roles(("gpt", "good"))]
    assert as_messages(mixed) == roles(("human", "loud"), ("gpt", "good"))
    with pytest.raises(ConfigError, match=r"message 1 of 'messages' has no role"):
        read({"messages": [[{"from": "human", "value": "loud", "content": "calm"}]]})


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(sorted(ROLES)), st.text(max_size=9)), min_size=1, max_size=5))
def test_texts_and_order_are_kept(said):
    assert as_messages(share(*said)) == roles(*said)
    assert as_messages(roles(*said)) == roles(*said)
