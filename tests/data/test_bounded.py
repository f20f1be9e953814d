"""What a tokenizer or a chat template makes of a row has bounds of time and memory."""

import json

import pytest
from support.families import save_tokenizer
from transformers import AutoTokenizer

from adamerge.data import bounded
from adamerge.data.bounded import check_chats, check_texts, rendered
from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.data.turn_end import AnswerEnd, turn_end
from adamerge.types import ConfigError

ROW = {"text": "good film", "messages": [{"role": "user", "content": "good film"}]}
LONG = {"type": "Replace", "pattern": {"Regex": "."}, "content": "ab" * 40}
"""Three of these make 4.6 million characters of nine, whose positions fit into no hole that other tests left."""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A table, a tokenizer's folder, and limits that are soon reached."""
    monkeypatch.setattr(bounded, "MEMORY", 2**24)
    monkeypatch.setattr(bounded, "_found", {})
    save_tokenizer(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a"}) + "\n" + json.dumps(ROW) + "\n")
    return load_table(DataSource(str(tmp_path / "rows.jsonl")), "mood", 0), tmp_path


@pytest.mark.parametrize(("steps", "refused"), [(1, False), (3, True)])
def test_a_normaliser_that_makes_long_texts_of_short_ones(small, steps, refused):
    table, folder = small
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Sequence", "normalizers": [LONG] * steps}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not refused:
        check_texts(table, tokenizer, ["a", "good film"])
        return
    with pytest.raises(ConfigError, match=r"row 2 \(line 2\).* GB of memory, but tokenizer\.json makes more"):
        check_texts(table, tokenizer, ["a", "good film"])


@pytest.mark.parametrize(
    ("template", "refused"),
    [
        ("{{ messages[0].content * 2 }}", False),
        ("{{ raise_exception('no') }}", False),  # said where the row is rendered
        ("{{ messages[0].content * 10**7 }}", True),
        ("{% set n = namespace(x='good') %}{% for i in range(25) %}{% set n.x = n.x + n.x %}{% endfor %}", True),
    ],
)
def test_a_chat_template_that_makes_long_texts_of_short_ones(small, template, refused):
    table, folder = small
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    chats = [[{"role": "user", "content": "a"}], ROW["messages"]]
    if not refused:
        check_chats(table, tokenizer, chats)
        check_chats(table, tokenizer, chats)  # not tried again
        return
    with pytest.raises(ConfigError, match=r"row 2 \(line 2\).* GB of memory, but the chat template makes more"):
        check_chats(table, tokenizer, chats)


def test_usual_tokenizers_are_not_tried(small, monkeypatch):
    table, folder = small
    monkeypatch.setattr(bounded, "beyond_limits", None)
    check_texts(table, AutoTokenizer.from_pretrained(folder), ["good film"])


def test_a_template_without_bounds_is_not_asked_how_turns_end(small, monkeypatch):
    """`check` asks so of every tokenizer, whatever the rows are."""
    tokenizer = AutoTokenizer.from_pretrained(small[1])
    tokenizer.chat_template = "{{ 'good' * 10**7 }}"
    monkeypatch.setattr(tokenizer, "apply_chat_template", None)  # of this process
    monkeypatch.setattr(bounded, "beyond_limits", lambda *given: "1 GB of memory")
    with pytest.raises(ConfigError, match="makes more than 1 GB of memory"):
        rendered(tokenizer, ROW["messages"])
    assert turn_end(tokenizer, ROW["messages"]).end(()) == AnswerEnd()
