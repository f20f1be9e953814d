"""Columns of texts and chats that are not read are reported, once each; identifiers and what is read are not."""

import json

import pytest
from support.families import CHATS, build, save_tokenizer
from transformers import AutoTokenizer

from adamerge.data.encode import encode
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import load_table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory

SAID = "texts in 'b' are not read; the key text_pair names the column of a second text."
CHAT = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "bad"}]
SHARED = [{"from": "human", "value": "good"}, {"from": "gpt", "value": "bad"}]
ASKED = {"answer_tokens": 4}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Notes on columns that are not read, of rows for a classifier or a language model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, chat_template="{{ theme }}" + CHATS)
    classes = build("BertForSequenceClassification", "bert", 0), build("LlamaForCausalLM", "llama", 0)
    experts = [Expert("mood", module, InMemory({}), ()) for module in classes]

    def call(rows, keys, encoding=None, *, language_model=False):
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        table = load_table(DataSource(str(file), **keys), "mood", 0)
        found = encode(table, experts[language_model], tokenizer, Encoding(**(encoding or {})))
        words = ("not read", "alone", "not given", "does not read")
        return [note.removeprefix(f"mood: {file}: ") for note in found.notes if any(word in note for word in words)]

    return call


@pytest.mark.parametrize(
    ("value", "keys", "expected"),
    [
        ("bad plot", {}, [SAID]),
        ("本は退屈", {}, [SAID]),
        (["bad plot", "dull"], {}, [SAID]),
        ({"text": "bad plot"}, {}, [SAID]),
        (CHAT, {}, [SAID]),
        ("bad plot", {"text_pair": "b"}, []),
        ("bad plot", {"label": "b"}, []),
        ("bad", {"completion": "b"}, [
            "the key completion names the column 'b', but of these rows BertForSequenceClassification reads 'text' "
            "alone."
        ]),
        ("4f2a-77", {}, []),
        ("https://example.org/plot", {}, []),
        (7, {}, []),
        (["bad", "plot"], {}, []),
        (None, {}, []),
    ],
)  # fmt: skip
def test_other_columns_of_classifiers_are_said(said, value, keys, expected):
    assert said([{"text": "good film", "b": value}], keys) == expected


FOR_CHATS = "texts in {} are not read, but for the chats in {} (key messages)"
LANGUAGE = {
    "two chats": (
        {"messages": CHAT, "conversations": SHARED}, {}, {}, [FOR_CHATS.format("'conversations'", "'messages'") + "."],
    ),
    "a text": ({"messages": CHAT, "text": "a film"}, {"messages": "messages"}, {},
               [FOR_CHATS.format("'text'", "'messages'") + "."]),
    "a preference": ({"chosen": CHAT, "rejected": CHAT, "prompt": "a film"}, {"messages": "chosen"}, {},
                     [FOR_CHATS.format("'rejected', 'prompt'", "'chosen'") + "."]),
    "a system prompt": ({"system": "the film is good", "messages": CHAT}, {}, {}, [
        FOR_CHATS.format("'system'", "'messages'")
        + "; write 'system' as the first message of each chat, with the role system."
    ]),
    "messages beside a text": ({"text": "a film", "messages": CHAT}, {}, {}, [
        "texts in 'messages' are not read; the key completion names the column of what follows the text."
    ]),
    "a pair": ({"text": "a film", "b": "bad"}, {"text_pair": "b"}, {}, [
        "the key text_pair names the column 'b', but of these rows LlamaForCausalLM reads 'text' alone."
    ]),
    "an answer": ({"text": "a film", "b": "bad"}, {"completion": "b"}, ASKED, [
        "the key completion names the column 'b', but of these rows LlamaForCausalLM reads 'text' alone."
    ]),
    "a completion": ({"text": "a film", "b": "bad"}, {"completion": "b"}, {}, []),
    "what templates get": (
        {"messages": CHAT, "tools": [{"name": "the film"}], "chat_template_kwargs": {"a": "the film"}, "theme": "a b"},
        {}, {},
        [f"the column {name!r} is not given to the chat template."
         for name in ("tools", "chat_template_kwargs", "theme")],
    ),
    "a picture": ({"text": "a film", "image": "the first.png"}, {}, {}, [
        "LlamaForCausalLM does not read the column 'image'."
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGE)
def test_other_columns_of_language_models_are_said_once(said, name):
    row, keys, encoding, expected = LANGUAGE[name]
    assert said([row], keys, encoding, language_model=True) == expected


def test_single_odd_rows_are_not_said(said):
    assert not said([{"text": "good", "b": b} for b in ("x", "a note", "y")], {})
