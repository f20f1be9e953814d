"""Texts that are not read as they are written are counted; classifiers read each row as if it were alone."""

import datasets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.families import SPECIAL, WORDS, build, save_tokenizer
from transformers import AutoTokenizer

from adamerge.data.encode import encode as encode_for
from adamerge.data.records import Arrow
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table
from adamerge.data.tokens import tokens_of
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def table(texts, **columns):
    return Table(Arrow(datasets.Dataset.from_dict({"text": texts, **columns})), DataSource("rows"), "mood")


def encode(texts, module, processor, **how):
    return encode_for(table(texts), Expert("mood", module, InMemory({}), ()), processor, Encoding(**how))


PIECES = st.sampled_from([*WORDS, *SPECIAL, "unheard", " "])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(PIECES, max_size=8).map(" ".join), min_size=1, max_size=5), st.integers(3, 8))
def test_tokens_are_those_of_the_tokenizer_and_findings_are_counted(tokenizer, texts, limit):
    found = tokens_of(table(texts), tokenizer, limit, texts)
    assert found.ids == [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    spelled = [i for i, text in enumerate(texts) if any(word in text for word in SPECIAL if word != "[UNK]")]
    long = [i for i, text in enumerate(texts) if len(tokenizer(text)["input_ids"]) > limit]
    known = {*WORDS, *SPECIAL} - {"[UNK]"}
    empty = [i for i, text in enumerate(texts) if not known & set(text.split())]
    assert found.spelled == spelled
    notes = found.all_notes(table(texts), "texts")
    for rows, words in ((spelled, "spelling of a special"), (long, f"longer than {limit}"), (empty, "have no token")):
        said = [note for note in notes if words in note]
        assert [note.split(": ")[2].split(" of ")[0] for note in said] == ([str(len(rows))] if rows else [])
        assert all(note.endswith(f"first: row {rows[0] + 1}.") for note in said)


def test_texts_without_a_token_are_dropped_with_their_labels(tokenizer, tmp_path):
    save_tokenizer(tmp_path)
    bare = AutoTokenizer.from_pretrained(tmp_path)
    bare.backend_tokenizer.post_processor = None
    rows = table(["good", "", "bad film", " "], label=[0, 1, 1, 0])
    expert = Expert("mood", build("BertForSequenceClassification", "bert", 0), InMemory({}), ())
    found = encode_for(rows, expert, bare, Encoding(labeled=True))
    assert found.rows.batch([0, 1]).labels.tolist() == [0, 1]
    assert len(found.rows) == 2
    assert "mood: rows: 2 of 4 rows are dropped: no token." in found.notes
    with pytest.raises(ConfigError, match="no text has a token"):
        encode_for(table(["", " "]), expert, bare, Encoding())


# --- classifiers that look for a token ------------------------------------------------------------------------------

TEXTS = ["good film", "bad", "the plot was dull and the film was long", "so [SEP] good", "old [PAD]"]
POOLING = [
    ("LlamaForSequenceClassification", "llama", {"pad_token_id": pad}, end)
    for pad in (2, 0, 1, 39, None, -1)
    for end in (None, "[SEP]")
] + [("GPT2ForSequenceClassification", "gpt2", {"pad_token_id": pad}, None) for pad in (2, None)]


@torch.no_grad()
def alone(module, ids):
    """Logits of each row alone, as plain transformers computes them."""
    return torch.cat([module(input_ids=torch.tensor([row])).logits for row in ids])


@torch.no_grad()
def together(module, rows):
    batch = rows.batch(range(len(rows)))
    return module(**batch.inputs).logits


@pytest.mark.parametrize(("architecture", "family", "options", "end"), POOLING)
@pytest.mark.parametrize("ends", [True, False])
def test_decoders_read_the_last_token_of_each_row(tmp_path, architecture, family, options, end, ends):
    save_tokenizer(tmp_path, end=end)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    if end:
        tokenizer.pad_token = end
    if not ends:
        tokenizer.backend_tokenizer.post_processor = None
    module = build(architecture, family, 0, **{**options, "pad_token_id": None})
    module.config.pad_token_id = options["pad_token_id"]
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    expected = alone(module, ids)
    first, second = encode(TEXTS[:3], module, tokenizer), encode(TEXTS[3:], module, tokenizer)
    torch.testing.assert_close(together(module, first.rows), expected[:3])  # after the second was encoded too
    torch.testing.assert_close(together(module, second.rows), expected[3:])
    assert any("padded with" in note for note in first.notes) == (options["pad_token_id"] != tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("architecture", "family"), [("BartForSequenceClassification", "bart"), ("T5ForSequenceClassification", "t5")]
)
@pytest.mark.parametrize("pad", [2, 1])
def test_encoder_decoders_read_texts_that_spell_the_end_token(tokenizer, architecture, family, pad):
    module = build(architecture, family, 0)
    module.config.eos_token_id, module.config.pad_token_id = 1, pad  # [SEP]
    texts = ["good film", "so [SEP] good", "the plot was dull"]
    found = encode(texts, module, tokenizer)
    plain = [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts]
    assert plain[1].count(1) == 1
    torch.testing.assert_close(together(module, found.rows), alone(module, plain), rtol=1e-4, atol=1e-5)
    (said,) = (note for note in found.notes if "plain text" in note)
    assert said.startswith("mood: rows: 1 of 3 texts contain the end token '[SEP]'")
    assert said.endswith("first: row 2.")


def test_encoder_decoder_without_end_tokens_is_refused(tokenizer):
    module = build("BartForSequenceClassification", "bart", 0)
    module.config.eos_token_id = 9
    with pytest.raises(ConfigError, match="row 1: BartForSequenceClassification reads the state at the end token"):
        encode(["good film", "so good"], module, tokenizer)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "LlamaForSequenceClassification"])
def test_tokens_without_embedding_are_refused(tokenizer, architecture):
    module = build(architecture, "llama", 0, vocab_size=20)
    with pytest.raises(ConfigError, match=r"mood: rows: row 2: the tokenizer gives the token .* has 20 embeddings"):
        encode(["the a", WORDS[-1]], module, tokenizer)
