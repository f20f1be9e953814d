"""Columns that the model's forward pass names are its inputs, at the tokens to which they belong."""

import pytest
import torch
from families.table import TABLE
from PIL import Image
from support.families import save_family, save_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adamerge.data.encode import encode
from adamerge.data.in_memory import as_table
from adamerge.data.settings import DataSource, Encoding
from adamerge.experts.from_modules import from_modules
from adamerge.types import ConfigError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def expert():
    family = next(family for family in TABLE if family.architecture == "LayoutLMForSequenceClassification")
    model = family.build(0)
    return from_modules(model, {"a": model}).tasks["a"]


def encoded(rows, expert, tokenizer):
    return encode(as_table(rows, "a"), expert, tokenizer, Encoding())


def box(n):
    return [n, n + 1, n + 2, n + 3]


def test_every_piece_of_a_word_gets_its_box(expert, tokenizer):
    rows = [{"text": " goodly  new film", "bbox": [box(10), box(20), box(30)]}, {"text": "film", "bbox": [box(40)]}]
    found, _, notes = encoded(rows, expert, tokenizer)
    start, end = [0] * 4, [1000] * 4
    assert tokenizer.convert_ids_to_tokens(found.batch([0]).inputs["input_ids"][0])[1:4] == ["good", "##ly", "new"]
    assert found.batch([0]).inputs["bbox"].tolist() == [[start, box(10), box(10), box(20), box(30), end]]
    padded = found.batch([1, 0]).inputs["bbox"]
    assert padded[0].tolist() == [start, box(40), end, start, start, start]
    assert "'bbox' is an input of LayoutLMForSequenceClassification: one value per word" in notes[0]


@pytest.mark.parametrize(
    ("words", "boxes"),
    [
        (["good new", "", "film"], [10, 10, 30]),
        (["good\u00a0new", " ", "film"], [10, 10, 30]),
        (["good new film"], [10] * 3),
    ],
)
def test_words_of_a_list_may_hold_spaces(words, boxes, expert, tokenizer):
    rows = [{"text": words, "bbox": [box(10 * n) for n in range(1, len(words) + 1)]}]
    found = encoded(rows, expert, tokenizer).rows.batch([0]).inputs["bbox"]
    assert found.tolist() == [[[0] * 4, *map(box, boxes), [1000] * 4]]


def test_truncated_rows_lose_the_boxes_of_what_is_cut(expert, tokenizer):
    rows = as_table([{"text": "good new film", "bbox": [box(1), box(2), box(3)]}], "a")
    found = encode(rows, expert, tokenizer, Encoding(max_length=4)).rows
    assert found.batch([0]).inputs["bbox"].tolist() == [[[0] * 4, box(1), box(2), [1000] * 4]]


def test_values_per_token_and_per_row_are_taken_as_they_are(expert, tokenizer):
    segments = [[0, 1, 0], [1, 1, 1]]
    rows = [{"text": word, "token_type_ids": own} for word, own in zip(("good", "film"), segments, strict=True)]
    found, _, notes = encoded(rows, expert, tokenizer)
    assert found.batch([0, 1]).inputs["token_type_ids"].tolist() == segments
    assert "one value per token" in notes[0]
    assert "also takes bbox, which the rows do not have" in notes[1]


def test_inputs_change_the_answer_as_in_plain_transformers(expert, tokenizer):
    rows = [{"text": "good film", "bbox": [box(100), box(7)]}, {"text": "dull", "bbox": [box(300)]}]
    found = encoded(rows, expert, tokenizer).rows
    state = {name: expert.weights[name] for name in expert.weights.headers}
    model = next(f for f in TABLE if f.architecture == "LayoutLMForSequenceClassification").build(0)
    logits = expert.forward(state, (), found.batch([0, 1]).inputs).logits
    for row, own in enumerate(rows):
        boxes = torch.tensor([[[0] * 4, *own["bbox"], [1000] * 4]])
        with torch.no_grad():
            expected = model(**tokenizer(own["text"], return_tensors="pt"), bbox=boxes).logits[0]
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ([box(1), box(2)], [box(1)], r"row 2: the column 'bbox' .* per word \(2\) or per token \(4\).*found 1 values"),
        ([[1, 2], [3, 4]], [[1, 2], [3]], r"row 2: the column 'bbox' .*expected numbers, or lists of numbers"),
        (["left", "right"], ["left", "right"], r"row 1: the column 'bbox' .*expected numbers"),
        ([box(1), box(2)], None, r"row 2: the column 'bbox' .*expected numbers"),
    ],
)
def test_other_shapes_are_refused_by_name(first, second, reason, expert, tokenizer):
    with pytest.raises(ConfigError, match=reason):
        encoded([{"text": "good film", "bbox": first}, {"text": "dull film", "bbox": second}], expert, tokenizer)


def test_columns_of_rows_that_were_tokenised_before_are_not_mixed_with_new_ids(expert, tokenizer):
    rows = [{"text": "good film", "input_ids": [9, 9], "token_type_ids": [1, 1], "bbox": [[9] * 4] * 2}]
    found, _, notes = encoded(rows, expert, tokenizer)
    assert set(found.batch([0]).inputs) == {"input_ids", "attention_mask"}
    assert "input_ids, bbox, token_type_ids of the rows are not read: the text is tokenised anew" in sorted(notes)[-1]
    _, _, notes = encoded([{"text": "good", "attention_mask": [1, 0, 1]}], expert, tokenizer)
    assert "attention_mask of the rows are not read" in sorted(notes)[-1]


def of(architecture):
    model = next(family for family in TABLE if family.architecture == architecture).build(0)
    return from_modules(model, {"a": model}).tasks["a"], model


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "GPT2LMHeadModel"])
def test_language_models_get_their_columns_too(architecture, tokenizer):
    expert, model = of(architecture)
    segments = [[1, 0, 1, 1], [0, 1, 1]]
    rows = [{"text": text, "token_type_ids": own} for text, own in zip(("good film", "dull"), segments, strict=True)]
    found, contents, notes = encoded(rows, expert, tokenizer)
    assert "'token_type_ids' is an input" in " ".join(notes)
    batch = found.batch([0, 1])
    assert batch.inputs["token_type_ids"].tolist() == [segments[0], [*segments[1], 0]]
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor([tokenizer("dull")["input_ids"]]), token_type_ids=torch.tensor([segments[1]])
        )
        state = {name: expert.weights[name] for name in expert.weights.headers}
        torch.testing.assert_close(expert.forward(state, (), batch.inputs).logits[1, :3], expected.logits[0])
    other = encoded([{**row, "token_type_ids": [0] * len(row["token_type_ids"])} for row in rows], expert, tokenizer)
    assert contents.fingerprint != other.contents.fingerprint


@pytest.mark.parametrize(
    ("architecture", "row", "source", "what"),
    [
        (
            "GPT2LMHeadModel",
            {"text": "good", "completion": "film"},
            {"completion": "completion"},
            "texts with completions",
        ),
        ("GPT2LMHeadModel", {"messages": [{"role": "user", "content": "good"}]}, {}, "chats"),
        ("ViTForImageClassification", {"image": Image.new("L", (2, 2))}, {}, "images"),
    ],
)
def test_columns_that_cannot_be_given_to_the_model_are_refused(architecture, row, source, what, tokenizer):
    expert, _ = of(architecture)
    name = "interpolate_pos_encoding" if what == "images" else "position_ids"
    table = as_table([{**row, name: [1]}], "a", DataSource("rows in memory", **source))
    with pytest.raises(
        ConfigError, match=f"the columns {name} are inputs of {architecture}, but of {what} they cannot"
    ):
        encode(table, expert, tokenizer, Encoding())


def test_a_tokenizer_that_takes_words_and_boxes_gets_both(tmp_path, expert):
    class Boxed(PreTrainedTokenizerFast):
        """Takes boxes as LayoutLMv3's tokenizer does."""

        model_input_names = ("input_ids", "attention_mask")

        def __call__(self, text, text_pair=None, boxes=None, **options):
            options = {key: value for key, value in options.items() if key in ("truncation", "max_length")}
            found = super().__call__(text, is_split_into_words=True, **options)
            found["bbox"] = [
                [[0] * 4 if word is None else own[word] for word in found.word_ids(row)]
                for row, own in enumerate(boxes)
            ]
            return found

    save_tokenizer(tmp_path)
    tokenizer = Boxed.from_pretrained(tmp_path)
    rows = [{"text": "goodly film", "bbox": [box(10), box(20)]}]
    found = encoded(rows, expert, tokenizer).rows
    assert found.batch([0]).inputs["bbox"].tolist() == [[[0] * 4, box(10), box(10), box(20), [0] * 4]]
    with pytest.raises(ConfigError, match=r"row 1: expected one box per word in the column 'bbox' \(2\), found 1"):
        encoded([{"text": "good film", "bbox": [box(10)]}], expert, tokenizer)


def test_rows_without_such_columns_are_read_as_before(tmp_path, tokenizer):
    family = next(family for family in TABLE if family.architecture == "BertForSequenceClassification")
    save_family(tmp_path, family.build(0), {})
    expert = from_modules(family.build(0), {"a": family.build(0)}).tasks["a"]
    found, _, notes = encoded([{"text": "good film", "size": 3}], expert, tokenizer)
    assert notes == ()
    assert set(found.batch([0]).inputs) == {"input_ids", "attention_mask"}
