"""Columns of texts that nobody named are reported; identifiers, classes and what keys name are not."""

import json

import pytest

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.data.unread_texts import unread_texts

SAID = "texts in 'b' are not read; the keys text_pair and completion name further texts."


@pytest.mark.parametrize(
    ("value", "keys", "said"),
    [
        ("bad plot", {}, True),
        ("本は退屈", {}, True),
        ("bad plot", {"text_pair": "b"}, False),
        ("bad plot", {"label": "b"}, False),
        ("bad plot", {"completion": "b"}, False),
        ("4f2a-77", {}, False),
        ("https://example.org/plot", {}, False),
        (7, {}, False),
        (["bad", "plot"], {}, False),
    ],
)
def test_other_texts_are_said(tmp_path, value, keys, said):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "good film", "b": value}) + "\n")
    table = load_table(DataSource(str(file), **keys), "mood", 0)
    assert unread_texts(table, {"text": "text"}) == ((f"mood: {file}: {SAID}",) if said else ())


def test_captions_of_images_and_single_odd_rows_are_not_said(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "good", "b": b}) + "\n" for b in ("x", "a note", "y")))
    table = load_table(DataSource(str(file)), "mood", 0)
    assert not unread_texts(table, {"text": "text"})
    assert not unread_texts(table, {"image": "text"})
