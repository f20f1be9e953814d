"""Rows in memory: every accepted form, and objects that are rejected."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.families import build
from torch.utils.data import Dataset, TensorDataset

from adamerge.data.in_memory import as_table, tensor_rows
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


def test_tensors_of_different_shapes_are_rejected():
    with pytest.raises(ConfigError, match="same names and shapes"):
        tensor_rows([IDS[0], IDS[0, :2]], expert("BertForSequenceClassification", "bert"))


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
