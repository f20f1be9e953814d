"""Encoding of rows per kind of model, and kinds and labels that are rejected by name."""

import json

import datasets
import pytest
import torch
from support.families import build, save_tokenizer
from transformers import AutoTokenizer

from adamerge.data.encode import encode as encode_for
from adamerge.data.records import Arrow, Listed
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table, load_table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def table(columns, **source):
    return Table(Arrow(datasets.Dataset.from_dict(columns)), DataSource("rows", **source), "mood")


def encode(rows, module, processor, **how):
    """Encode rows for an expert with this module."""
    return encode_for(rows, Expert("mood", module, InMemory({}), ()), processor, Encoding(**how))


TEXTS = {"text": ["good film", "the plot was dull and the film was long"], "label": [0, 1]}

REFUSED = {
    "choices": ("BertForMultipleChoice", "bert", {}, {}, False, "BertForMultipleChoice cannot be run on input_ids"),
    "labels of tokens": ("BertForTokenClassification", "bert", {}, {}, True, "one class per token, and labels"),
    "fills in": ("BertForMaskedLM", "bert", {}, {}, True, "BertForMaskedLM predicts masked tokens"),
    "no completion": ("T5ForConditionalGeneration", "t5", {}, {}, True, r"key completion of the evaluation"),
    "chats": ("T5ForConditionalGeneration", "t5", {}, {"messages": "text"}, False, "chat messages .* encoder"),
    "chats, measured": (
        "T5ForConditionalGeneration", "t5", {}, {"messages": "text", "completion": "text"}, True, "chat messages"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_used_are_rejected_by_name(tokenizer, name):
    architecture, family, options, source, labeled, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words):
        encode(table(TEXTS, **source), build(architecture, family, 0, **options), tokenizer, labeled=labeled)


@pytest.mark.parametrize("source", [{}, {"messages": "messages"}, {"messages": "messages", "text": "review"}])
def test_chats_for_a_reward_model_are_to_be_rendered_first(tokenizer, source):
    chat = [{"role": "user", "content": "good film"}]
    rows = table({"messages": [chat, chat]} | ({"id": ["a", "b"]} if source else {}), **source)
    module = build("LlamaForSequenceClassification", "llama", 0, num_labels=1)
    with pytest.raises(ConfigError, match=r"found chats in 'messages'.*Render each chat.*key text") as error:
        encode(rows, module, tokenizer)
    assert "write messages" not in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "family", "source"),
    [
        ("BertForSequenceClassification", "bert", {}),
        ("LlamaForSequenceClassification", "llama", {}),
        ("T5ForSequenceClassification", "t5", {}),
        ("LlamaForCausalLM", "llama", {}),
        ("T5ForConditionalGeneration", "t5", {"completion": "text"}),
    ],
)
def test_models_that_can_be_evaluated(tokenizer, architecture, family, source):
    module = build(architecture, family, 0)
    found = encode(table(TEXTS, **source), module, tokenizer, labeled=True)
    batch = found.rows.batch([0, 1])
    logits = module(**batch.inputs).logits
    assert batch.labels.shape == logits.shape[:-1]
    assert all("labels in 'label' are read as indices of classes" in note for note in found.notes)


def test_masked_language_models_can_learn(tokenizer):
    rows = encode(table(TEXTS), build("BertForMaskedLM", "bert", 0), tokenizer, labeled=False).rows
    batch = rows.batch([0, 1])
    assert torch.equal(batch.positions, batch.inputs["attention_mask"].bool())


@pytest.mark.parametrize("family", [("BertForTokenClassification", "bert"), ("LlamaForTokenClassification", "llama")])
def test_padding_does_not_count_where_tokens_have_classes(tokenizer, family):
    rows = encode(table(TEXTS), build(*family, 0), tokenizer, labeled=False).rows
    batch = rows.batch([0, 1])
    assert torch.equal(batch.positions, batch.inputs["attention_mask"].bool())
    assert batch.positions.sum() < batch.positions.numel()


def test_completions_without_a_token_cannot_be_measured(tokenizer):
    rows = table({"text": ["good", "bad"], "completion": ["", ""]}, completion="completion")
    for family in (("LlamaForCausalLM", "llama"), ("T5ForConditionalGeneration", "t5")):
        with pytest.raises(ConfigError, match="no row has a token to predict"):
            encode(rows, build(*family, 0), tokenizer, labeled=True, positions="completion")


# --- hashes of row contents -----------------------------------------------------------------------------------------


def test_overlap_of_pairs_and_of_messages(tokenizer):
    module = build("BertForSequenceClassification", "bert", 0)
    one, other = (
        encode(table({"text": ["a", "a"], "more": more}, text_pair="more"), module, tokenizer, labeled=False).contents
        for more in (["b", "c"], ["c", "d"])
    )
    assert one.overlap(other) == 1
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    chats = [[{"role": "user", "content": word}] for word in ("good", "bad", "dull")]
    named = [[{"role": "user", "content": "bad", "name": None}]]
    one, other = (
        encode(table({"messages": rows}, messages="messages"), build("LlamaForCausalLM", "llama", 0), tokenizer,
               labeled=False).contents
        for rows in (chats, named)
    )  # fmt: skip
    assert one.overlap(other) == 1


def test_fingerprint_depends_on_the_contents_alone(tokenizer, tmp_path):
    module = build("BertForSequenceClassification", "bert", 0)

    def fingerprint(file, rows, **source):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        read = load_table(DataSource(str(tmp_path / file), **source), "mood", 0)
        return encode(read, module, tokenizer, labeled=False).contents.fingerprint

    rows = [{"text": "good"}, {"text": "bad"}]
    first = fingerprint("a.jsonl", rows)
    assert fingerprint("b.jsonl", [{"text": row["text"], "unused": 1} for row in rows]) == first
    assert fingerprint("c.jsonl", [{"words": row["text"]} for row in rows], text="words") == first
    assert fingerprint("d.jsonl", rows[::-1]) != first
    assert fingerprint("e.jsonl", [{"text": "goodb"}, {"text": "ad"}]) != first
    assert fingerprint("a.jsonl", rows[:1]) != first


def test_what_is_cut_is_said_of_rows_of_sentence_encoders_too(tokenizer):
    module = build("BertModel", "bert", 0)
    found = encode(table({"text": [*TEXTS["text"], "good [SEP] film"]}), module, tokenizer, max_length=6)
    assert any("1 of 3 texts are longer than 6 tokens and are cut" in note for note in found.notes)
    assert any("spell" in note for note in found.notes)
    assert any("vectors are the mean over tokens" in note for note in found.notes)


@pytest.mark.parametrize("long", ["text", "other"])
def test_texts_of_a_pair_are_counted_by_column_and_named_by_their_row(tokenizer, long):
    pair = {"text": ["good film", "bad film"], "other": ["dull", "bad [SEP]"]}
    pair[long] = [pair[long][0], TEXTS["text"][1]]
    rows = Table(Listed(pair, ["line 7", "line 8"]), DataSource("rows", text_pair="other"), "mood")
    found = encode(rows, build("BertModel", "bert", 0), tokenizer, max_length=6)
    assert any(f"1 of 2 texts in {long!r} are longer than 6 tokens" in n and "line 8" in n for n in found.notes)
    assert any("1 of 2 texts in 'other' contain the spelling" in note for note in found.notes) == (long == "text")
    assert len(found.rows) == 4
