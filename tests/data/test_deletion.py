"""Copies of texts from which tokens are deleted."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamerge.data.augment import augmented
from adamerge.data.deletion import deletions
from adamerge.data.rows import Subset, TensorRows
from adamerge.data.settings import Augmentation
from adamerge.data.text_rows import TextRows
from adamerge.types import ConfigError

CLS, SEP, PAD = 0, 1, 2
TOKENIZER = SimpleNamespace(all_special_ids=[CLS, SEP, PAD], pad_token_id=PAD)
ROWS = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4)


@given(rows=ROWS, copies=st.integers(1, 3), deletion=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_copies_are_texts_with_fewer_words(rows, copies, deletion, seed):
    special, how = {CLS, SEP, PAD}, Augmentation(copies, deletion)
    found = deletions(list(enumerate(rows)), special, how, seed)
    assert [row for row, _ in found] == [*range(len(rows))] * copies
    for row, kept in found:
        ids = rows[row]
        assert list(kept) == sorted(set(kept))
        assert {place for place, token in enumerate(ids) if token in special} <= {*kept}
        assert not set(ids) - special or any(ids[place] not in special for place in kept)
    assert found == deletions(list(enumerate(rows)), special, how, seed)


def test_as_many_words_are_deleted_as_a_uniform_share_says():
    length, copies = 200, 400
    found = deletions([(0, [5] * length)], {CLS}, Augmentation(copies, deletion=0.6), seed=0)
    lost = torch.tensor([1 - len(kept) / length for _, kept in found])
    assert lost.mean() == pytest.approx(0.3, abs=0.03)
    assert lost.max() > 0.5
    assert lost.min() < 0.1


def texts(**options):
    return TextRows([[CLS, 5, 6, SEP], [CLS, 7, SEP]], TOKENIZER, per_token=False, **options)


def test_rows_come_first_and_copies_keep_each_tokens_segment():
    rows = texts(segments=[[0, 0, 1, 1], [0, 1, 1]])
    found = augmented({"mood": Subset(rows, [1, 0])}, Augmentation(copies=2), seed=0)["mood"]
    assert len(found) == 6
    first = found.batch([1]).inputs
    assert first["input_ids"].tolist() == [[CLS, 5, 6, SEP]]
    of_token = {CLS: 0, 5: 0, 6: 1, 7: 1, SEP: 1}
    for row in range(6):
        inputs = found.batch([row]).inputs
        ids, segments = inputs["input_ids"][0].tolist(), inputs["token_type_ids"][0].tolist()
        assert segments == [of_token[token] for token in ids]


@pytest.mark.parametrize(
    "rows",
    [
        TensorRows({"x": torch.zeros(2, 3)}),
        TextRows([[CLS, 5, SEP]], TOKENIZER, per_token=True),
        texts(targets=[[CLS, 5], [CLS, 6]]),
    ],
    ids=["tensors", "one prediction a token", "a text to write"],
)
def test_other_rows_are_used_unchanged(rows):
    assert augmented({"mood": rows}, Augmentation(), seed=0) == {"mood": rows}
    assert augmented({"mood": rows}, None, seed=0) == {"mood": rows}


@pytest.mark.parametrize(("key", "value"), [("copies", 0), ("deletion", 0.0), ("deletion", 1.0)])
def test_numbers_out_of_range_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"data\.augmentation\.{key}: expected .*, found {value}"):
        Augmentation(**{key: value})
