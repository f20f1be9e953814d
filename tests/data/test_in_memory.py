"""Rows in memory: every accepted form, and objects that are rejected."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.families import build
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from transformers import BatchEncoding

from adamerge.data.encode import encode_tensors
from adamerge.data.in_memory import as_table, holds_tensors, tensor_rows
from adamerge.data.padding import Padding
from adamerge.data.settings import DataSource
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError

TEXTS = ["good film", "dull"]
DICTS = [{"text": text, "label": label} for label, text in enumerate(TEXTS)]
IDS = torch.tensor([[0, 5, 6, 1], [0, 7, 1, 2]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def expert(architecture, family):
    return Expert("mood", build(architecture, family, 0), InMemory({}), ())


FORMS = ["path", "str", "source", "texts", "dicts", "columns", "dataset", "table", "array", "column of an array"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_contains_the_same_texts(tmp_path, form):
    data = datasets.Dataset.from_list(DICTS)
    file = tmp_path / "rows.parquet"
    data.to_parquet(str(file))
    forms = {
        "path": file, "str": str(file), "source": DataSource(str(file)), "texts": TEXTS, "dicts": DICTS,
        "columns": {"text": TEXTS}, "dataset": data, "table": as_table(data, "mood"),
        "array": np.array(TEXTS), "column of an array": {"text": np.array(TEXTS), "label": np.arange(2)},
    }  # fmt: skip
    assert as_table(forms[form], "mood").texts("text") == TEXTS


def test_a_key_missing_in_the_first_row_is_kept():
    assert as_table([{"text": "a"}, {"text": "b", "label": 1}], "mood").values("label") == [None, 1]


def test_values_in_memory_are_those_that_were_given():
    mixed = ["007", 7, None, 2**70, '"a"', True, {"role": "user"}, [1]]
    assert repr(as_table({"text": mixed}, "mood").values("text")) == repr(mixed)
    assert repr(as_table([{"text": value} for value in mixed], "mood").values("text")) == repr(mixed)
    numbers = as_table({"label": [np.int64(1), np.str_("a"), (np.float32(0.5),)]}, "mood").values("label")
    assert repr(numbers) == repr([1, "a", [0.5]])


def test_images_in_memory_are_decoded_as_they_are():
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    for source in ([image], {"image": [image]}, datasets.Dataset.from_dict({"image": [image]})):
        assert as_table(source, "mood").image("image", 0).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([1, 2], "mood: expected rows as a path, .*, found list of int"),
        (3, "found int"),
        ([], "expected at least 1 row, found none"),
        ({"text": ["a"], "label": [0, 1]}, "expected columns of one length"),
    ],
)
def test_other_objects_are_rejected_with_the_accepted_types(source, words):
    with pytest.raises(ConfigError, match=words):
        as_table(source, "mood")


@pytest.mark.parametrize("form", ["tensor", "list", "dict", "dicts", "data set"])
def test_every_form_of_tensors_makes_the_same_batch(form):
    forms = {
        "tensor": IDS, "list": list(IDS), "dict": {"input_ids": IDS}, "dicts": [{"input_ids": row} for row in IDS],
        "data set": TensorDataset(IDS, torch.tensor([1, 0])),
    }  # fmt: skip
    batch = tensor_rows(forms[form], expert("BertForSequenceClassification", "bert")).batch([1, 0])
    assert torch.equal(batch.inputs["input_ids"], IDS[[1, 0]])
    assert batch.positions is None
    assert (batch.labels is not None) == (form == "data set")


def test_positions_of_tensors_equal_the_mask():
    rows = tensor_rows({"input_ids": IDS, "attention_mask": MASK}, expert("LlamaForCausalLM", "llama"))
    batch = rows.batch([0, 1])
    assert torch.equal(batch.positions, MASK.bool())
    assert batch.labels.tolist() == [[5, 6, 1, -100], [7, 1, -100, -100]]


PLAIN = Expert("mood", nn.Linear(4, 2).eval(), InMemory({}), ())
BERT = expert("BertForSequenceClassification", "bert")
ROWS = {
    "plain": (PLAIN, {"input": torch.eye(4)[:2].tolist(), "labels": [0, 1]}),
    "bert": (BERT, {"input_ids": IDS.tolist(), "attention_mask": MASK.tolist(), "labels": [0, 1]}),
}
RAGGED = {"input_ids": [[0, 5, 6, 1], [0, 7, 1]], "token_type_ids": [[0, 0, 1, 1], [0, 1, 1]], "label": [1, 0]}


def as_rows(columns, convert=lambda value: value):
    """The rows of columns, each a dict."""
    return [{name: convert(column[i]) for name, column in columns.items()} for i in range(2)]


def transformed(columns):
    """A dataset whose rows a transform of the user makes."""
    whole = datasets.Dataset.from_dict({"number": [0, 1]})
    return whole.with_transform(
        lambda batch: {name: [column[i] for i in batch["number"]] for name, column in columns.items()}
    )


def arrays(columns):
    """Each column an array; of rows of several lengths a list of arrays."""
    even = {name: len({len(v) if isinstance(v, list) else 0 for v in column}) == 1 for name, column in columns.items()}
    return {name: np.array(c) if even[name] else [np.array(v) for v in c] for name, c in columns.items()}


CONTAINERS = {
    "dict of lists": dict,
    "dict of arrays": arrays,
    "batch encoding": BatchEncoding,
    "list of dicts": as_rows,
    "list of dicts of tensors": lambda columns: as_rows(columns, torch.as_tensor),
    "list of dicts of arrays": lambda columns: as_rows(columns, np.array),
    "data set of dicts": lambda columns: Items(*as_rows(columns, torch.as_tensor)),
    "dataset": datasets.Dataset.from_dict,
    "dataset of tensors": lambda columns: datasets.Dataset.from_dict(columns).with_format("torch"),
    "dataset of arrays": lambda columns: datasets.Dataset.from_dict(columns).with_format("numpy"),
    "transformed dataset": transformed,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", ROWS)
def test_encoded_rows_in_every_container_are_those_of_a_dict_of_tensors(kind, container):
    model, columns = ROWS[kind]
    source, order = CONTAINERS[container](columns), [1, 0]
    assert holds_tensors(source, model.kind.main_input)
    expected = encode_tensors({n: torch.tensor(c) for n, c in columns.items()}, model, labeled=True)
    found = encode_tensors(source, model, labeled=True)
    own, other = found.rows.batch(order), expected.rows.batch(order)
    assert own.inputs.keys() == other.inputs.keys() == columns.keys() - {"labels"}
    assert all(torch.equal(own.inputs[name], other.inputs[name]) for name in own.inputs)
    assert own.labels.tolist() == other.labels.tolist() == [1, 0]
    assert found.contents.fingerprint == expected.contents.fingerprint
    assert found.notes == ()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_token_ids_of_several_lengths_are_padded_as_those_of_texts(container, side):
    columns = RAGGED if container not in ("data set of dicts", "list of dicts of tensors") else {
        "labels" if name == "label" else name: column for name, column in RAGGED.items()
    }  # fmt: skip
    rows = tensor_rows(CONTAINERS[container](columns), BERT).under(Padding(side))
    batch = rows.batch([1, 0])
    right = {"input_ids": [0, 7, 1, 2], "attention_mask": [1, 1, 1, 0], "token_type_ids": [0, 1, 1, 0]}
    short = {name: row if side == "right" else row[-1:] + row[:-1] for name, row in right.items()}
    assert {name: tensor[0].tolist() for name, tensor in batch.inputs.items()} == short
    assert batch.inputs["input_ids"][1].tolist() == [0, 5, 6, 1]
    assert batch.labels.tolist() == [0, 1]
    assert [rows.length(i) for i in (0, 1)] == [(4,), (3,)]


@pytest.mark.parametrize(
    ("architecture", "family", "labels"),
    [
        ("LlamaForCausalLM", "llama", [[5, 6, 1, -100], [7, 1, -100, -100]]),
        ("BertForTokenClassification", "bert", [[1, 0, 0, 1], [0, 1, 0, -100]]),
    ],
)
def test_positions_of_token_ids_of_several_lengths_are_those_without_padding(architecture, family, labels):
    rows = {"input_ids": RAGGED["input_ids"]}
    rows |= {"labels": [[1, 0, 0, 1], [0, 1, 0]]} if family == "bert" else {}
    batch = tensor_rows(rows, expert(architecture, family)).batch([0, 1])
    assert batch.positions.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert batch.labels.tolist() == labels


def test_columns_that_a_model_does_not_take_are_said():
    source = datasets.Dataset.from_dict({**RAGGED, "idx": [0, 1], "sentence": ["a", "b"]})
    found = encode_tensors(source, BERT, labeled=True)
    assert found.notes == (
        "mood: idx, sentence of the encoded rows are not read: BertForSequenceClassification has no such arguments.",
    )
    assert found.rows.batch([0]).inputs.keys() == {"input_ids", "attention_mask", "token_type_ids"}


@pytest.mark.parametrize("also", ["text", "messages", "image"])
def test_rows_that_can_be_encoded_here_are(also):
    assert not holds_tensors({**RAGGED, also: ["a", "b"]}, "input_ids")


@pytest.mark.parametrize(
    ("source", "model", "words"),
    [
        ([IDS[0].float(), IDS[0, :2].float()], PLAIN, "same names and shapes"),
        ({"input": [[1.0, 2.0], [1.0]]}, PLAIN, "same names and shapes"),
        ({"input_ids": [[5, 6], [7]], "position_ids": [[0], [0, 1]]}, BERT, "same names and shapes"),
        ({"input_ids": [[5, 6], []]}, BERT, "row 2: expected at least one token in input_ids, found none"),
        ({"input_ids": [[5, 6], ["a"]]}, BERT, "expected rows of tensors"),
    ],
)
def test_encoded_rows_that_do_not_fit_together_are_refused(source, model, words):
    with pytest.raises(ConfigError, match=words):
        tensor_rows(source, model)


SPLIT = datasets.Dataset.from_dict({"text": ["good", "bad"]})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (datasets.DatasetDict(train=SPLIT, test=SPLIT), r"found a DatasetDict .*'train', 'test'\). .* data\['train'\]"),
        ({"test": SPLIT}, r"found a dict .*'test'\). Give one of them: data\['test'\]"),
        (SPLIT.to_iterable_dataset(), r"found IterableDataset.*: list\(data\.take\(1000\)\)"),
        (SPLIT.to_iterable_dataset().with_format("torch"), r"list\(data\.take\(1000\)\)"),
    ],
)
def test_splits_and_streams_are_refused_with_what_to_give(source, words):
    model = expert("BertForSequenceClassification", "bert")
    with pytest.raises(ConfigError, match=words):
        tensor_rows(source, model) if holds_tensors(source, "input_ids") else as_table(source, "mood")
    given = next(iter(source.values())) if isinstance(source, dict) else list(source.take(1000))
    assert as_table(given, "mood").texts("text") == ["good", "bad"]


class Items(Dataset):
    """A PyTorch dataset of the given items."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    "item", ["good film", ("good film", 1), {"text": "good film"}, {"input_ids": IDS[0], "a": "b"}]
)
def test_a_dataset_of_texts_is_refused_in_words(item):
    with pytest.raises(ConfigError, match=r"mood: expected rows of tensors, found .* \(str\) in one. Give texts"):
        tensor_rows(Items(item, item), expert("BertForSequenceClassification", "bert"))
