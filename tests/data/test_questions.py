"""What is measured suits model and rows; what does not is refused by row, with what does."""

import datasets
import pytest
from support.families import CHATS, build, save_tokenizer
from transformers import AutoTokenizer

from adamerge.data.encode import encode
from adamerge.data.questions import Choices, Questions, count_questions
from adamerge.data.records import Arrow
from adamerge.data.settings import Encoding, EvaluationSource
from adamerge.data.tables import Table
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError

TEXTS = ["good film", "the plot was dull", "it is loud"]
ANSWERS = ["very bright", "so slow not so", "a new book was good"]
COLUMNS = {"text": TEXTS, "completion": ANSWERS}
CHAT = [{"role": "user", "content": "good film"}, {"role": "assistant", "content": "so slow"}]
LLAMA, BERT = ("LlamaForCausalLM", "llama"), ("BertForSequenceClassification", "bert")
T5 = ("T5ForConditionalGeneration", "t5")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, end="[SEP]")
    return AutoTokenizer.from_pretrained(folder, chat_template=CHATS)


def measured(tokenizer, model, columns, options=None, max_length=None, **source):
    expert = Expert("mood", build(*model, 0, **(options or {})), InMemory({}), ())
    source = EvaluationSource("rows", **{"max_new_tokens": 8, **source})
    table = Table(Arrow(datasets.Dataset.from_dict(columns)), source, "mood")
    return encode(table, expert, tokenizer, Encoding(labeled=True, max_length=max_length))


COMPLETED = {"completion": "completion"}
REFUSED = {
    "classes have no perplexity": (
        BERT,
        {"text": TEXTS, "label": [0, 1, 0]},
        {"metric": "perplexity"},
        "expected accuracy, because BertForS",
    ),
    "classes are no choices": (
        BERT,
        {"text": TEXTS, "label": [0, 1, 0]},
        {"metric": "accuracy", "choices": ["a", "b"]},
        "choices are for language models",
    ),
    "nothing to choose from": (LLAMA, COLUMNS, {"metric": "accuracy", **COMPLETED}, "no choices are configured"),
    "no right answers": (T5, COLUMNS, {"metric": "exact_match"}, "key completion of the evaluation"),
    "cannot generate": (
        ("BertForMaskedLM", "bert"),
        COLUMNS,
        {"metric": "rouge", **COMPLETED},
        "predicts masked tokens from both sides",
    ),
    "language models have no f1": (
        LLAMA,
        COLUMNS,
        {"metric": "f1", **COMPLETED},
        "perplexity, exact_match, rouge or accuracy",
    ),
    "right answer is no choice": (
        LLAMA,
        COLUMNS,
        {"metric": "accuracy", "choices": ANSWERS[:2], **COMPLETED},
        r"row 3: expected one of the choices",
    ),
    "unknown normalisation": (
        LLAMA,
        {**COLUMNS, "normalise": ["strip", "case", "trim"]},
        {"metric": "exact_match", **COMPLETED},
        r"row 3: expected some of strip, case, punctuation",
    ),
    "choices by row": (
        LLAMA,
        {**COLUMNS, "offered": [["a", "b"], ["a"], ["a", "b"]]},
        {"metric": "accuracy", "choices": "offered", **COMPLETED},
        r"row 1: expected one of the choices|row 2: expected a list",
    ),
    "no answer in a chat": (
        LLAMA,
        {"messages": [CHAT, CHAT[:1]]},
        {"metric": "exact_match"},
        r"row 2: expected one message of 'assistant'",
    ),
    "spans": (
        ("BertForQuestionAnswering", "bert"),
        {"text": TEXTS, "label": [1, 2, 3]},
        {},
        "row 1: expected a text, a list of texts",
    ),
    "no pairs": (("BertModel", "bert"), {"text": TEXTS, "label": [1, 2, 3]}, {}, "expected pairs of texts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_suit_is_refused(tokenizer, name):
    model, columns, source, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words):
        measured(tokenizer, model, columns, **source)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"choices": ["a", "b"]}, "expected metric: accuracy"),
        ({"choices": ["a"], "metric": "accuracy"}, "at least two"),
        ({"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(source, words):
    with pytest.raises(ConfigError, match=words):
        EvaluationSource("rows", **source)


def test_what_cannot_be_reached_is_counted(tokenizer):
    found = measured(
        tokenizer,
        LLAMA,
        {**COLUMNS, "completion": ["new", ANSWERS[2], " "]},
        metric="exact_match",
        max_new_tokens=2,
        **COMPLETED,
    )
    assert isinstance(found.rows, Questions)
    assert any(
        "1 of 3 right answers are longer than max_new_tokens: 2" in note and "row 2" in note for note in found.notes
    )
    assert any("1 of 3 right answers are empty" in note and "row 3" in note for note in found.notes)
    wordless = measured(tokenizer, LLAMA, {**COLUMNS, "completion": ["...", "a", "b"]}, metric="rouge", **COMPLETED)
    assert any("1 of 3 right answers have no word, so they score 0; first: row 1" in note for note in wordless.notes)


def test_questions_that_do_not_fit_are_dropped_whole(tokenizer):
    columns = {"text": ["good " * 12, "good film", "bad"], "completion": ["new", "old", "new"]}
    found = measured(tokenizer, LLAMA, columns, max_length=8, metric="accuracy", choices=["new", "old"], **COMPLETED)
    assert isinstance(found.rows, Choices)
    assert len(found.rows) == 4
    assert count_questions(found.rows) == 2
    assert found.rows.right == (False, True, True, False)
    assert any("1 of 3 questions are dropped: longer than 8 tokens" in note for note in found.notes)


SEVERAL = {"num_labels": 3, "problem_type": "multi_label_classification"}
LABELS = {
    "names": (SEVERAL, [["LABEL_0"], [], ["LABEL_2", "LABEL_1"]], [[1, 0, 0], [0, 0, 0], [0, 1, 1]]),
    "indices": (SEVERAL, [[0], [], [2, 1]], [[1, 0, 0], [0, 0, 0], [0, 1, 1]]),
    "switches": (SEVERAL, [[1, 0, 0], [0, 0, 0], [0, 1, 1]], [[1, 0, 0], [0, 0, 0], [0, 1, 1]]),
    "numbers": ({"num_labels": 1}, [0.5, -1, 2], [[0.5], [-1], [2]]),
    "numbers as texts": ({"num_labels": 1}, ["0.5", "-1", "2e0"], [[0.5], [-1], [2]]),
    "lists of numbers": (
        {"num_labels": 2, "problem_type": "regression"},
        [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]],
        [[0.5, 1], [2, 3], [4, 5]],
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_read_as_the_model_predicts_them(tokenizer, name):
    options, labels, expected = LABELS[name]
    found = measured(tokenizer, BERT, {"text": TEXTS, "label": labels}, options)
    assert found.rows.batch([0, 1, 2]).labels.tolist() == expected
    assert found.rows.metric == ("f1" if options is SEVERAL else "mse")
    words = {"names": "label names", "indices": "indices of labels", "switches": "a 0 or 1 for each of 3 labels"}
    assert name not in words or any(f"'label' are read as {words[name]}." in note for note in found.notes)


WRONG = {
    "a name that is none": (
        SEVERAL,
        [["LABEL_0"], ["x"], []],
        "row 2: expected in the column 'label' a list of labels",
    ),
    "no list": (SEVERAL, ["LABEL_0", "LABEL_1", "LABEL_2"], "row 1: expected a list of labels"),
    "a name of several labels": (
        {"problem_type": "multi_label_classification", "id2label": {0: "x", 1: "x", 2: "y"}},
        [["y"], [], ["x"]],
        r"row 3: expected .* the name of one label, found 'x', which several labels of the model have \(\[0, 1\]\)",
    ),
    "a number in Python's spelling": ({"num_labels": 1}, ["0.5", "1_0", "2"], "row 2: expected a number"),
    "digits of another script": ({"num_labels": 1}, ["0.5", "١٢", "2"], "row 2: expected a number"),
    "too many digits": ({"num_labels": 1}, ["0.5", "1" * 401, "2"], "row 2: expected a number"),
    "two readings": ({**SEVERAL, "num_labels": 2}, [[0, 1], [1, 0], [0, 1]], "indices of labels and as a 0 or 1"),
    "no number": ({"num_labels": 1}, ["0.5", "many", "2"], "row 2: expected a number"),
    "not finite": ({"num_labels": 1}, ["0.5", "nan", "2"], "row 2: expected a number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_cannot_be_read_are_refused_by_row(tokenizer, name):
    options, labels, words = WRONG[name]
    with pytest.raises(ConfigError, match=words):
        measured(tokenizer, BERT, {"text": TEXTS, "label": labels}, options)
