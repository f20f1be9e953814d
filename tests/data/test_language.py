"""Rows of language models: positions that count, compared with transformers' own losses, and rejected rows."""

import datasets
import pytest
import torch
from support.families import CHATS, build, save_tokenizer
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from adamerge.data.encode import encode
from adamerge.data.records import Arrow
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError

TEXTS = ["good film", "the plot was dull", "it is loud"]
COMPLETIONS = ["very bright", "so slow not so", "a new book was good"]
COLUMNS = {"text": TEXTS, "completion": COMPLETIONS}
CHAT = [
    {"role": "user", "content": "good film"},
    {"role": "assistant", "content": "so slow"},
    {"role": "user", "content": "the plot"},
    {"role": "assistant", "content": "a new book was good"},
]


@pytest.fixture(scope="module", params=["right", "left"])
def tokenizer(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, end="[SEP]")
    return AutoTokenizer.from_pretrained(folder, chat_template=CHATS, padding_side=request.param)


def table(columns, **source):
    return Table(Arrow(datasets.Dataset.from_dict(columns)), DataSource("rows", **source), "mood")


def rows_of(
    tokenizer, columns, architecture="LlamaForCausalLM", family="llama", positions="all", answer=None, **source
):
    how = {key: source.pop(key) for key in ("labeled", "max_length") if key in source}
    expert = Expert("mood", build(architecture, family, 0), InMemory({}), ())
    return encode(
        table(columns, **source), expert, tokenizer, Encoding(positions=positions, answer_tokens=answer, **how)
    )


def loss_on(module, batch):
    """Compute the cross-entropy of the labels of a batch, as perplexity uses it."""
    logits = module(**batch.inputs).logits
    return cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100)


@pytest.mark.parametrize(("architecture", "family"), [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2")])
@pytest.mark.parametrize("positions", ["all", "completion"])
def test_loss_of_a_decoder_equals_that_of_transformers(tokenizer, architecture, family, positions):
    rows = rows_of(tokenizer, COLUMNS, architecture, family, positions, completion="completion", labeled=True).rows
    batch = rows.batch([0, 1, 2])
    module = build(architecture, family, 0)
    labels = batch.inputs["input_ids"].masked_fill(batch.inputs["attention_mask"] == 0, -100)
    if positions == "completion":
        for row, text in enumerate(TEXTS):
            labels[row, : len(tokenizer(text)["input_ids"]) - 1] = -100  # without the end of a text
    expected = module(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"], labels=labels)
    torch.testing.assert_close(loss_on(module, batch), expected.loss)


@pytest.mark.parametrize(
    ("architecture", "family"), [("T5ForConditionalGeneration", "t5"), ("BartForConditionalGeneration", "bart")]
)
@pytest.mark.parametrize("positions", ["all", "completion"])
def test_loss_of_an_encoder_decoder_equals_that_of_transformers(tokenizer, architecture, family, positions):
    rows = rows_of(tokenizer, COLUMNS, architecture, family, positions, completion="completion", labeled=True).rows
    batch = rows.batch([2, 0, 1])
    module = build(architecture, family, 0)
    inputs = tokenizer([TEXTS[i] for i in (2, 0, 1)], padding=True, return_tensors="pt", padding_side="right")
    tokens = tokenizer([COMPLETIONS[i] for i in (2, 0, 1)], padding=True, return_tensors="pt", padding_side="right")
    labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
    expected = module(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
    torch.testing.assert_close(loss_on(module, batch), expected)
    assert torch.equal(batch.positions, labels != -100)


def test_completion_positions_predict_the_completion(tokenizer):
    batch = rows_of(tokenizer, COLUMNS, positions="completion", completion="completion").rows.batch([0, 1, 2])
    for row, completion in enumerate(COMPLETIONS):
        predicted = batch.inputs["input_ids"][row, 1:][batch.positions[row, :-1]]
        assert tokenizer.decode(predicted) == f"{completion} [SEP]"
        assert not batch.positions[row, -1]
    everything = rows_of(tokenizer, COLUMNS, completion="completion").rows.batch([0, 1, 2])
    assert torch.equal(everything.positions, everything.inputs["attention_mask"].bool())
    assert torch.equal(everything.inputs["input_ids"], batch.inputs["input_ids"])


def test_the_end_of_a_text_stands_after_the_completion_not_before_it(tokenizer):
    found = rows_of(tokenizer, {**COLUMNS, "completion": [*COMPLETIONS[:2], ""]}, completion="completion")
    ids = found.rows.batch([0, 1, 2]).inputs
    decoded = [tokenizer.decode(row[mask.bool()]) for row, mask in zip(*ids.values(), strict=True)]
    assert decoded == [f"[CLS] {t} {c} [SEP]" for t, c in zip(TEXTS[:2], COMPLETIONS[:2], strict=True)] + [
        f"[CLS] {TEXTS[2]}"
    ]
    note = "mood: the tokenizer ends a text with [SEP], which is moved from the prompt to the end of the completion."
    assert note in found.notes
    asked = rows_of(tokenizer, {"text": TEXTS}, answer=4)
    prompts = asked.rows.batch([0]).inputs
    assert tokenizer.decode(prompts["input_ids"][0]) == f"[CLS] {TEXTS[0]}"
    assert "mood: the tokenizer ends a text with [SEP], which is not added to prompts." in asked.notes


def test_the_last_turn_of_a_chat_counts_and_the_template_is_applied(tokenizer):
    chats = {"messages": [CHAT, CHAT[:2]]}
    batch = rows_of(tokenizer, chats, positions="completion").rows.batch([0, 1])
    for row, text in enumerate(("a new book was good [SEP]", "so slow [SEP]")):
        assert tokenizer.decode(batch.inputs["input_ids"][row, 1:][batch.positions[row, :-1]]) == text
    whole = rows_of(tokenizer, chats).rows.batch([0])
    expected = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert whole.inputs["input_ids"][0].tolist() == expected
    assert whole.positions.all()


THINKS = (
    "{% for m in messages %}{{ m['role'][:1] }} is {{ m['content'] }} [SEP] "
    "{% if m['role'] == 'user' and loop.last %}very {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}a is so {% endif %}"
)
"""A template that renders a question otherwise once it is answered: without its "very", and without "so"."""


def test_a_question_that_is_rendered_otherwise_ends_where_the_renderings_differ(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", THINKS)
    batch = rows_of(tokenizer, {"messages": [CHAT]}, positions="completion").rows.batch([0])
    ids, counted = batch.inputs["input_ids"][0], batch.positions[0]
    assert ids.tolist() == tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert tokenizer.decode(ids[1:][counted[:-1]]) == "a is a new book was good [SEP]"


NAMES = "{% for m in messages %}{% if 'name' in m %}{{ m['name'] }} {% endif %}{{ m['content'] }} [SEP] {% endfor %}"
"""A template that shows the name of a message that has one, as templates ask for keys."""


def test_a_message_has_no_keys_of_other_messages(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", NAMES)
    named = [{**CHAT[0], "name": "book"}, CHAT[1]]
    rows = rows_of(tokenizer, {"messages": [named, CHAT[:2]]}).rows
    rendered = [tokenizer.decode(rows.batch([row]).inputs["input_ids"][0]) for row in (0, 1)]
    assert rendered == ["book good film [SEP] so slow [SEP]", "good film [SEP] so slow [SEP]"]


def test_rows_in_which_no_position_counts_are_dropped(tokenizer):
    columns = {"text": [*TEXTS, "the a of to in is it was good bad"], "completion": [*COMPLETIONS, "so"]}
    found = rows_of(tokenizer, columns, positions="completion", completion="completion", max_length=11)
    assert len(found.rows) == 3
    assert found.notes == (
        "mood: rows: 1 of 4 prompts are longer than 11 tokens and are cut there (data.max_length, or the maximum of "
        "tokenizer or model); first: row 4.",
        "mood: the tokenizer ends a text with [SEP], which is moved from the prompt to the end of the completion.",
        "mood: rows: 1 of 4 prompts with their completions are longer than 11 tokens and are cut there "
        "(data.max_length, or the maximum of tokenizer or model); first: row 4.",
        "mood: rows: 1 of 4 rows are dropped: none of their positions counts within 11 tokens (see data.max_length and "
        "data.positions).",
    )
    assert all(found.rows.batch([i]).positions.any() for i in range(3))
    assert found.rows.batch([1]).inputs["input_ids"].shape[1] == 10
    with pytest.raises(ConfigError, match="no row has a token to predict within 3 tokens"):
        rows_of(tokenizer, columns, positions="completion", completion="completion", max_length=3)


REFUSED = {
    "no completion": ({"text": TEXTS}, {"positions": "completion"}, "expected a column of completions"),
    "no template": ({"messages": [CHAT]}, {}, "neither the expert's tokenizer nor the base's has one"),
    "no messages": ({"messages": [CHAT, None]}, {}, "row 2 has no messages in 'messages'"),
    "empty": ({"messages": [CHAT, []]}, {}, "row 2 has no messages in 'messages'"),
    "words": ({"messages": ["good film"]}, {}, "row 1 has no messages in 'messages'"),
    "not a message": ({"messages": [["good film"]]}, {}, "row 1: message 1 of 'messages' is 'good film'"),
    "no role": (
        {"messages": [CHAT, [{"content": "good"}]]}, {}, "row 2: message 1 of 'messages' has no role",
    ),
    "no content": (
        {"messages": [[*CHAT[:1], {"role": "assistant"}]]}, {}, "row 1: message 2 of 'messages' has no content",
    ),
    "no answer": (
        {"messages": [CHAT, CHAT[:3]]}, {"positions": "completion"}, "row 2 ends with a message of 'user'",
    ),
    "refused": ({"messages": [CHAT[1:]]}, {}, r"row 1: the tokenizer's chat template rejects .*ask first"),
    "no prompt": ({"messages": [CHAT[1:2]]}, {"answer": 4}, "row 1 has no prompt"),
    "no room": ({"text": TEXTS}, {"answer": 8, "max_length": 8}, "answers of 8 tokens .* leave no room"),
    "cannot generate": (
        {"text": TEXTS}, {"answer": 4, "architecture": "BertForMaskedLM", "family": "bert"}, "cannot generate",
    ),
    "no language model": (
        {"text": TEXTS},
        {"positions": "completion", "architecture": "BertForSequenceClassification", "family": "bert"},
        "data.positions and data.pseudo_answers need a language model",
    ),
    "no words at all": ({"words": TEXTS}, {}, "expected a column 'text'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_cannot_be_used_are_rejected_by_name(tokenizer, name):
    columns, how, words = REFUSED[name]
    template, tokenizer.chat_template = tokenizer.chat_template, None if name == "no template" else CHATS
    try:
        with pytest.raises(ConfigError, match="mood: .*" + words):
            rows_of(tokenizer, columns, **how)
    finally:
        tokenizer.chat_template = template


DAMAGED = {
    "cut off": CHATS[:-9], "no such filter": "{{ messages | none_such }}", "no such name": "{{ none_such.a }}",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_template_that_no_row_can_mend_is_refused_by_its_file(tokenizer, name):
    template, tokenizer.chat_template = tokenizer.chat_template, DAMAGED[name]
    try:
        with pytest.raises(ConfigError, match=r"chat template in Jinja, .* tokenizer is damaged.* Copy chat_template"):
            rows_of(tokenizer, {"messages": [CHAT]})
    finally:
        tokenizer.chat_template = template


def test_prompts_end_where_the_answer_begins(tokenizer):
    prompts = rows_of(tokenizer, {"messages": [CHAT, CHAT[:2], CHAT[:3]]}, answer=4).rows
    assert [chat[-1]["content"] for chat in prompts.shown] == ["the plot", "good film", "the plot"]
    batch = prompts.batch([0, 1])
    for row, chat in enumerate((CHAT[:3], CHAT[:1])):
        ids = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()].tolist()
        assert ids == tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False, add_generation_prompt=True)
    assert batch.inputs["attention_mask"][:, -1].all()  # padded on the left, as generate requires
    rows = prompts.answered([[9, 8, 1], [7], [6, 5]])
    both = rows.batch([0, 1, 2])
    assert [int(count) for count in both.positions.sum(1)] == [int(n) for n in both.inputs["attention_mask"].sum(1)]
    encoded = rows_of(
        tokenizer, {"text": TEXTS}, "T5ForConditionalGeneration", "t5", answer=4, max_length=4
    ).rows  # the decoder has room of its own
    assert encoded.batch([0, 1]).inputs["attention_mask"][:, 0].all()
    assert encoded.answered([[9, 1], [8], [7]]).batch([0]).inputs["decoder_input_ids"].tolist() == [[0, 9]]
