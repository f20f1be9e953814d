"""Lists of words are joined, other columns are named, and what `datasets` has rewritten is refused."""

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamerge.data.labels import label_indices
from adamerge.data.records import Arrow, Listed
from adamerge.data.settings import DataSource
from adamerge.data.tables import Table
from adamerge.data.words import place_hint
from adamerge.types import ConfigError


def table(columns, **source):
    return Table(Listed(columns), DataSource("rows", **source), "mood")


words = st.lists(st.text("abc", min_size=1), max_size=4)


@given(st.lists(words, min_size=1))
def test_lists_of_words_are_read_as_the_text_of_their_words(rows):
    found = table({"tokens": rows}, text="tokens")
    assert [text.split() for text in found.texts("tokens")] == rows
    assert "lists of words, which are joined by spaces" in " ".join(found.reading_notes({"text": "tokens"}))


@given(st.lists(words, min_size=1), st.text("abc"))
def test_a_column_of_both_is_refused_by_column_and_row(rows, text):
    with pytest.raises(
        ConfigError, match=r"row 2: expected a text in the column 'tokens', found .*in the column 'tokens', or"
    ):
        table({"tokens": [text, *rows]}).texts("tokens")


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        ({"tokens": [["good", "film"]], "ner_tags": [[0, 1]]}, "If 'tokens' holds the texts, write text: tokens"),
        ({"id": [1], "sentence": ["good film"]}, "If 'sentence' holds the texts, write text: sentence"),
        ({"dialogue": [[{"from": "human", "value": "good"}]]}, "If 'dialogue' holds chats, write messages: dialogue."),
        (
            {"chat": [[{"role": "user", "content": "good"}]], "id": ["x"]},
            "If 'chat' holds chats, write messages: chat.",
        ),
        ({"turns": [[{"speaker": "a", "utterance": "good"}]]}, "If 'turns' holds chats, write messages: turns."),
        ({"boxes": [[{"x": 1}]], "score": [0.5]}, None),
        ({"id": [1], "score": [0.5]}, None),
        ({"text;label": ["good;1"]}, None),
    ],
)
def test_the_column_that_was_meant_is_named(columns, advice):
    with pytest.raises(ConfigError, match="expected a column 'text', but the columns are") as refused:
        table(columns).require(["text"])
    assert (advice in str(refused.value)) if advice else (" holds " not in str(refused.value))


def rewritten(values):
    """Rows that `datasets` was given with mixed types, so that it made the column Json."""
    return Table(
        Arrow(datasets.Dataset.from_dict({"text": values, "label": values}, on_mixed_types="use_json")),
        DataSource("rows"),
        "mood",
    )


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="datasets has no type Json before 5")
def test_texts_that_datasets_rewrites_are_refused():
    found = rewritten(["007", "true", 1])
    assert found.values("text") != ["007", "true", 1]  # else there is nothing to refuse
    with pytest.raises(ConfigError, match="the column 'text' has the type Json, in which datasets rewrites"):
        found.texts("text")
    with pytest.raises(ConfigError, match="the column 'label' has the type Json"):
        label_indices(found, {0: "007", 1: "true"}, 2)


@pytest.mark.skipif(not hasattr(datasets, "Json"), reason="datasets has no type Json before 5")
def test_lists_and_objects_of_the_type_json_are_kept():
    chats = [[{"role": "user", "content": "007"}], [{"role": "user", "content": [{"type": "text", "text": "true"}]}]]
    data = datasets.Dataset.from_dict({"messages": chats}, on_mixed_types="use_json")
    Table(Arrow(data), DataSource("rows"), "mood").check_kept("messages")


def test_an_image_beside_its_rows_is_said_to_be_there(tmp_path):
    (tmp_path / "a.png").touch()
    rows = str(tmp_path / "rows.csv")
    assert f"run in {tmp_path}, where there is one" in place_hint("a.png", rows)
    assert place_hint("b.png", rows) == place_hint(str(tmp_path / "a.png"), rows) == ""
